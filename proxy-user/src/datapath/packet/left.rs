//! Offloaded connections that an earlier daemon has left, while no upstream of the configuration may have any. They go on, past a
//! firewall of this host: so they are looked after as ever, and no connection joins them.

use std::sync::Arc;

use super::PacketDatapath;
use super::ports::Ports;
use crate::hub::Hub;
use crate::hub::snapshot;
use crate::kernel::Unavailable;
use crate::kernel::packet::{Claim, Folder};

/// None: there are none in this network namespace, as far as can be seen from here. To be asked some time after the start: another daemon
/// that starts again at the same time has not taken its own yet.
pub(crate) fn open_left(hub: &Hub) -> Option<Result<Arc<PacketDatapath>, Unavailable>> {
    let found = Folder::of_this_namespace(None).inspect_err(|error| {
        tracing::debug!(%error, "cannot look for offloaded connections of an earlier daemon");
    });
    let all = found.ok()?.into_iter().filter(|folder| !folder.is_locked);
    let mut all: Vec<(usize, Folder)> =
        all.filter_map(counted).filter(|(connections, _)| *connections > 0).collect();
    all.sort_by_key(|(connections, _)| *connections);
    let (connections, largest) = all.pop()?;
    let pins = largest.path.display().to_string();
    tracing::warn!(
        connections, %pins,
        "an earlier snisplice has left offloaded connections, and packet is not configured: they continue, and a firewall of this \
         host does not see their packets. `snisplice flows` lists them, `snisplice restore ID` restores one, `snisplice kill ID` ends \
         one. With `snisplice run --release` all end when the daemon stops"
    );
    for (connections, folder) in all {
        tracing::warn!(
            connections, pins = %folder.path.display(),
            "these offloaded connections continue too, and no daemon manages them: end them with `snisplice doctor --clean --pins {}`",
            folder.path.parent().unwrap_or(&folder.path).display()
        );
    }
    Some(Claim::of_left(largest).and_then(|claim| PacketDatapath::open_for_left(hub, claim)))
}

fn counted(folder: Folder) -> Option<(usize, Folder)> {
    let pins = folder.path.display();
    let counted = folder.connections().inspect_err(|error| {
        tracing::warn!(
            %pins, %error,
            "an earlier snisplice may have left offloaded connections, which cannot be counted: no daemon manages them"
        );
    });
    counted.ok().map(|connections| (connections, folder))
}

impl PacketDatapath {
    fn open_for_left(hub: &Hub, claim: Claim) -> Result<Arc<Self>, Unavailable> {
        let config = &hub.config.current().packet;
        let journal = claim.journal.clone().unwrap_or_else(|| config.journal.clone());
        let config = snapshot::Packet { journal, ..config.clone() };
        let ports = Ports::of(config.ports.clone(), &config.sources);
        Self::begin(hub, &config, ports, claim)
    }
}
