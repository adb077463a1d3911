//! A flow without sockets has nobody but the daemon to find out that its ends have gone. While there is none, a timer of the
//! kernel does so, by rest alone.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use proxy_common::packet::ageing::Limits;

use super::PacketDatapath;
use crate::hub::snapshot::Timeouts;
use crate::kernel::Unavailable;

/// How often the daemon shows that it lives.
const BEAT: Duration = Duration::from_secs(1);

impl PacketDatapath {
    /// Tells the kernel after which times a connection is over, if no daemon looks after it.
    pub(crate) fn tend_within(&self, timeouts: &Timeouts) -> Result<(), Unavailable> {
        let limits = Limits::new(timeouts.idle, timeouts.half_close);
        self.packet
            .tend(&limits)
            .map_err(|error| Unavailable::explain("the kernel takes no timer of a BPF program", &error))
    }

    /// Shows that the daemon lives, as long as it does.
    pub(crate) async fn tend(self: Arc<Self>) -> io::Result<()> {
        loop {
            self.packet.beat()?;
            tokio::time::sleep(BEAT).await;
        }
    }

    /// The same while something takes long that nothing else runs beside.
    pub(super) fn tend_during(&self, work: impl FnOnce()) {
        let (busy, over) = mpsc::channel::<()>();
        let beat = move || {
            while over.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = self.packet.beat();
            }
        };
        thread::scope(|scope| {
            // Without it there is the beat of the start.
            let _ = thread::Builder::new().name("beat".to_owned()).spawn_scoped(scope, beat);
            work();
            drop(busy);
        });
    }
}
