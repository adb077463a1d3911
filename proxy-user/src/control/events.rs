//! What the BPF programs tell: sockets that userspace has to carry, and log records.

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;

use super::admin::Kernel;
use crate::hub::Hub;
use crate::sys;

/// How long a flow may wait for an event that was lost.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

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

/// Wakes every flow once an event was lost: each looks for itself whether it was meant.
pub(crate) async fn sweep(hub: Arc<Hub>, kernel: Arc<Kernel>) {
    let Ok(sockmap) = &kernel.sockmap else { return };
    let mut known = 0;
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let lost = sockmap.counters().lost_events;
        if lost != known {
            known = lost;
            for flow in hub.flows.list() {
                flow.wake.notify_one();
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
