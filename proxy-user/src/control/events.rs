//! What the BPF programs tell: sockets that userspace has to carry, and log records.

use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;

use crate::hub::Hub;
use crate::sys;

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

/// Writes the programs' log records to the daemon's log.
pub(crate) async fn log(logger: EbpfLogger<&'static dyn Log>) -> std::io::Result<()> {
    let mut logger = sys::readable(logger)?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
