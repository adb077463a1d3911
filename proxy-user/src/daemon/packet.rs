//! The packet datapath: opened at the start, looked after while the daemon runs, and left or ended at its end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::upkeep::Upkeep;
use crate::datapath::packet::{self, PacketDatapath};
use crate::hub::{Hub, Phase};
use crate::kernel::{Kernel, Packet, Unavailable};

/// After the start, before offloaded connections of an earlier daemon are looked for that no upstream may have.
const LEFT: Duration = Duration::from_secs(10);

/// What an earlier daemon has left, once it is found.
pub(super) type Left = Arc<OnceLock<Arc<PacketDatapath>>>;

/// Loads the programs and finds the offloaded connections of an earlier daemon. None: no upstream may be offloaded to.
pub(super) fn open(hub: &Arc<Hub>, upkeep: &Upkeep) -> Option<Result<Arc<PacketDatapath>, Unavailable>> {
    let config = hub.config.current();
    if !config.wants_packet() {
        return None;
    }
    let packet = PacketDatapath::open(hub, &config.packet);
    look_after(hub, upkeep, &packet);
    Some(packet)
}

pub(super) fn packet_of(
    packet: &Result<Arc<PacketDatapath>, Unavailable>,
) -> Result<Arc<Packet>, Unavailable> {
    match packet {
        Ok(packet) => Ok(Arc::clone(&packet.packet)),
        Err(reason) => Err(reason.clone()),
    }
}

/// If no upstream may be offloaded to: looks for connections that an earlier daemon has left, some time after the start.
/// Other daemons that start at the same time have taken their own by then. Says where they are to be found.
pub(super) fn look_for_left(hub: &Arc<Hub>, upkeep: &Arc<Upkeep>, kernel: &Arc<Kernel>) -> Left {
    let left = Left::default();
    if !hub.config.current().wants_packet() {
        let (hub, kernel, weak) = (Arc::clone(hub), Arc::clone(kernel), Arc::downgrade(upkeep));
        let found = Arc::clone(&left);
        upkeep.spawn(async move {
            tokio::time::sleep(LEFT).await;
            let look = move || {
                // Err: the daemon stops.
                if let Some(upkeep) = weak.upgrade() {
                    open_left(&hub, &upkeep, &kernel, &found);
                }
            };
            // With many connections it takes a while.
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                tracing::error!(%error, "offloaded connections of an earlier snisplice cannot be looked for");
            }
        });
    }
    left
}

fn open_left(hub: &Arc<Hub>, upkeep: &Upkeep, kernel: &Kernel, left: &Left) {
    if hub.phases.now() != Phase::Running {
        return;
    }
    let Some(packet) = packet::open_left(hub) else { return };
    look_after(hub, upkeep, &packet);
    let _ = kernel.left.set(packet_of(&packet));
    if let Ok(packet) = packet {
        let _ = left.set(packet);
    }
}

/// Starts what the packet datapath needs all the time.
fn look_after(hub: &Arc<Hub>, upkeep: &Upkeep, packet: &Result<Arc<PacketDatapath>, Unavailable>) {
    let is_wanted = hub.config.current().wants_packet();
    match packet {
        Ok(packet) => {
            if is_wanted {
                tracing::info!("packet datapath is ready");
            }
            upkeep.spawn_essential("signs of life", Arc::clone(packet).tend());
            upkeep.spawn_essential("attachments", Arc::clone(packet).stay_attached());
            upkeep.spawn_essential("routes", Arc::clone(packet).follow());
            upkeep.spawn_essential("offloaded connections", Arc::clone(packet).watch(Arc::clone(hub)));
        }
        Err(reason) if is_wanted => {
            tracing::warn!(%reason, "packet datapath unavailable: connections are not offloaded");
        }
        Err(reason) => {
            tracing::warn!(%reason, "the offloaded connections of an earlier snisplice are not looked after");
        }
    }
}

/// What becomes of the flows that have no sockets.
pub(super) fn leave(hub: &Hub, packet: &PacketDatapath, release: bool) {
    if release {
        packet.release(hub);
        if let Err(error) = packet.packet.withdraw() {
            tracing::warn!(%error, "what is pinned stays; `doctor --clean` removes it");
        }
        return;
    }
    let flows = packet.abandon(hub);
    if flows == 0 && !packet.packet.takes_new {
        // Nothing wants the programs any more.
        if let Err(error) = packet.packet.withdraw() {
            tracing::warn!(%error, "what is pinned stays; `doctor --clean` removes it");
        }
    }
    if flows > 0 {
        tracing::info!(
            flows,
            "offloaded connections go on and wait for the next daemon; `run --release` ends them"
        );
    }
}
