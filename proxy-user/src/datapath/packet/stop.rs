//! What becomes of flows without sockets when the daemon ends.

use proxy_common::flow::{End, Reason};

use super::PacketDatapath;
use super::offload_table::OffloadedFlow;
use crate::hub::Hub;

impl PacketDatapath {
    /// Ends all flows with resets: the operator wants none to outlive the daemon.
    pub(crate) fn release(&self, hub: &Hub) {
        let all: Vec<OffloadedFlow> =
            self.table.inner().offloaded.drain().map(|(_, offloaded)| offloaded).collect();
        for mut offloaded in all {
            let entries = self.entries(&offloaded.keys);
            if offloaded.active.is_some() {
                self.cut(hub, &mut offloaded, &entries, End { reason: Reason::Drain, side: None });
            }
            self.clear(&offloaded);
        }
        self.table.journal.finish();
    }

    /// Leaves all flows to the next daemon. Says how many there are.
    pub(crate) fn abandon(&self, hub: &Hub) -> usize {
        let all: Vec<OffloadedFlow> =
            self.table.inner().offloaded.drain().map(|(_, offloaded)| offloaded).collect();
        for offloaded in &all {
            hub.flows.leave_parked(&offloaded.flow);
            if offloaded.active.is_none() {
                self.clear(offloaded);
            }
        }
        self.table.journal.finish();
        all.iter().filter(|offloaded| offloaded.active.is_some()).count()
    }
}
