//! The addresses of this host, by which a connection is known that may be one of our own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::Hub;
use crate::sys;

/// Between two times that the kernel is asked: a list of many addresses takes a while.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets the hub know them, now and whenever they change. Must run inside a runtime.
pub(crate) fn follow_own_addresses(hub: &Arc<Hub>) {
    // Before the first question, so that no change is missed.
    let changes = sys::Changes::watch_addresses().and_then(sys::readable);
    if let Err(error) = ask(hub) {
        tracing::warn!(%error, "cannot list the addresses of this host: the first connection of this daemon that comes back to it is not refused");
    }
    let changes = match changes {
        Ok(changes) => changes,
        Err(error) => return tracing::debug!(%error, "no news of addresses"),
    };
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        while let Ok(mut ready) = changes.readable().await {
            ready.get_inner().take();
            ready.clear_ready();
            if let Err(error) = ask(&hub) {
                tracing::debug!(%error, "cannot list the addresses of this host");
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

fn ask(hub: &Hub) -> io::Result<()> {
    hub.dialing.set_own_addresses(sys::interfaces()?.addresses);
    Ok(())
}
