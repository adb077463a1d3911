//! What becomes of flows without sockets when the daemon ends.

use proxy_common::flow::{End, Reason};

use super::PacketDatapath;
use super::offload_table::OffloadedFlow;
use crate::hub::Hub;

impl PacketDatapath {
    /// Ends all flows with resets: the operator wants none to outlive the daemon.
    pub(crate) fn release(&self, hub: &Hub) {
        let all: Vec<OffloadedFlow> = self.lot.inner().parked.drain().map(|(_, parked)| parked).collect();
        for mut parked in all {
            let entries = self.entries(&parked.keys);
            if parked.active.is_some() {
                self.cut(hub, &mut parked, &entries, End { reason: Reason::Drain, side: None });
            }
            self.clear(&parked);
        }
        self.lot.journal.finish();
    }

    /// Leaves all flows to the next daemon. Says how many there are.
    pub(crate) fn abandon(&self, hub: &Hub) -> usize {
        let all: Vec<OffloadedFlow> = self.lot.inner().parked.drain().map(|(_, parked)| parked).collect();
        for parked in &all {
            hub.flows.leave_parked(&parked.flow);
            if parked.active.is_none() {
                self.clear(parked);
            }
        }
        self.lot.journal.finish();
        all.iter().filter(|parked| parked.active.is_some()).count()
    }
}
