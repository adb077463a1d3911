//! What the BPF programs tell: sockets that userspace has to carry, and log records.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;

use super::budget::Keeper;
use crate::hub::{Hub, LogThrottle};
use crate::kernel::{Attachment, Kernel, LOST, Sockmap};
use crate::sys;

/// How long a flow may wait for an event that was lost.
const ROUND: Duration = Duration::from_secs(1);

/// How often a flow looks for a vanished peer in the time after which that counts as vanished.
const LOOKS_PER_SILENCE: u64 = 4;

/// Each flow looks once in so many rounds at the latest: what a foreign hand has done to it shows to itself only.
const ROUNDS_MAX: u64 = 15;

/// Wakes the flow of every cookie that the verdict names.
pub(crate) async fn run(hub: Arc<Hub>, events: RingBuf<MapData>) -> std::io::Result<()> {
    let mut events = sys::readable(events)?;
    loop {
        let mut ready = events.readable_mut().await?;
        while let Some(event) = ready.get_inner_mut().next() {
            if let Some(cookie) = event.first_chunk() {
                hub.flows.wake_cookie(u64::from_ne_bytes(*cookie));
            }
        }
        ready.clear_ready();
    }
}

/// Once a second: flows look for themselves, each in its turn, and the kernel part is looked at as a whole. Every flow looks
/// at once where an event was lost, since any may have been meant.
pub(crate) async fn rounds(hub: Arc<Hub>, kernel: Arc<Kernel>) {
    let mut budget = Keeper::new(&hub.config.current().limits);
    let mut lost_events = 0;
    let throttle = LogThrottle::default();
    for round in 0_u64.. {
        tokio::time::sleep(ROUND).await;
        let config = hub.config.current();
        let rounds = (config.timeouts.keepalive.as_secs() / LOOKS_PER_SILENCE).clamp(1, ROUNDS_MAX);
        hub.flows.wake_some(round, rounds);
        let Ok(sockmap) = &kernel.sockmap else { continue };
        budget.look(&config.limits, sockmap);
        let lost = sockmap.counters().lost_events;
        if lost != lost_events {
            lost_events = lost;
            hub.flows.wake_some(0, 1);
        }
        look_at_attachment(&hub, sockmap, &throttle);
    }
}

fn look_at_attachment(hub: &Hub, sockmap: &Sockmap, throttle: &LogThrottle) {
    match sockmap.stay_attached() {
        Attachment::Whole => hub.sockmap_lost.store(false, Ordering::Relaxed),
        Attachment::Again => {
            hub.sockmap_lost.store(false, Ordering::Relaxed);
            if throttle.is_due() {
                tracing::error!(
                    "something else has detached the BPF program of the sockmap datapath; it is attached again. Connections that were \
                     handed over meanwhile may be reset: their records say kernel_lost"
                );
            }
        }
        Attachment::Lost(error) => {
            if !hub.sockmap_lost.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "{LOST}; new connections are not spliced");
            }
        }
    }
}

/// Writes the programs' log records to the daemon's log.
pub(crate) async fn log(logger: EbpfLogger<&'static dyn Log>) -> std::io::Result<()> {
    let mut logger = sys::readable(logger)?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
