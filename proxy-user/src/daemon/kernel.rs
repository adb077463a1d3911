//! What the kernel can do for this daemon, found out at the start.

use std::sync::{Arc, OnceLock};

use proxy_common::plan::{Choice, Datapath};

use super::millis;
use super::packet::packet_of;
use super::upkeep::Upkeep;
use crate::control::{events, logs};
use crate::datapath::packet::PacketDatapath;
use crate::hub::Hub;
use crate::hub::Server;
use crate::hub::snapshot::Snapshot;
use crate::kernel::{self, Kernel, Unavailable};
use crate::sys;

/// Loads and tries the datapaths, and reads from now on what their programs tell.
pub(super) fn probe(
    hub: &Arc<Hub>,
    upkeep: &Upkeep,
    packet: Option<&Result<Arc<PacketDatapath>, Unavailable>>,
) -> Kernel {
    let mut probed = kernel::probe(logs::debug_enabled(), wants_local(&hub.config.current()));
    match &mut probed.sockmap {
        Ok(sockmap) => {
            tracing::info!(took_ms = millis(probed.took), "sockmap datapath passed its self-test");
            if let Some(reason) = probed.caution.as_ref().filter(|_| hub.config.current().has_auto()) {
                tracing::warn!(%reason, "connections of upstreams with datapath = \"auto\" are not spliced");
            }
            if let Some(ring) = sockmap.take_events() {
                upkeep.spawn_essential("the BPF events", events::run(Arc::clone(hub), ring));
            }
            if let Some(log) = sockmap.take_log() {
                upkeep.spawn(async {
                    let _ = events::log(log).await;
                });
            }
        }
        Err(reason) => tracing::warn!(%reason, "sockmap datapath unavailable: connections are not spliced"),
    }
    match &probed.local {
        Some(Ok(kernel::Local { noticed: None })) => tracing::info!("local datapath passed its self-test"),
        Some(Ok(kernel::Local { noticed: Some(noticed) })) => {
            tracing::info!(
                reason = noticed,
                "local datapath is used for upstreams with datapath = \"local\" only"
            );
        }
        Some(Err(reason)) => {
            let instead = if probed.sockmap.is_ok() { "spliced by sockmap" } else { "copied" };
            tracing::warn!(%reason, "local datapath unavailable: connections to servers on this host are {instead}");
        }
        None => {}
    }
    let packet = packet.map(packet_of);
    let left = OnceLock::new();
    let kernel::Probed { sockmap, caution, local, .. } = probed;
    let packet_caution =
        kernel::packet_caution().filter(|_| hub.config.current().packet.is_forbidden_to_auto);
    Kernel { sockmap, caution, local, packet, packet_caution, left }
}

/// Whether a server may be on this host, and its upstream may be carried as such.
fn wants_local(snapshot: &Snapshot) -> bool {
    let here = |server: &Server| match server {
        Server::Address(address) => sys::is_own_address(address.ip()),
        Server::Name { .. } => true,
        // Reached over its link.
        Server::LinkLocal { .. } => false,
    };
    snapshot.upstreams.iter().any(|upstream| match upstream.datapath {
        Choice::Only(Datapath::Local) => true,
        Choice::Auto => upstream.servers().any(here),
        Choice::Only(_) => false,
    })
}
