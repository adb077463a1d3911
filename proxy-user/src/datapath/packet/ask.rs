//! Asking the ends of a flow without sockets for a sign of life. One that could not be asked is not given up for its silence.

use proxy_common::abi::packet::Entry;
use proxy_common::flow::Side;
use proxy_common::packet::craft::Purpose;
use proxy_common::packet::life::{Bounds, Step};

use super::PacketDatapath;
use super::offload_table::OffloadedFlow;
use super::send::is_our_fault;
use crate::sys;

impl PacketDatapath {
    /// Asks these ends, client first.
    pub(super) fn ask(&self, offloaded: &mut OffloadedFlow, entries: &[Option<Entry>; 2], ends: [bool; 2]) {
        let asked_ms = sys::now_ms();
        let unsent = self.send(&offloaded.keys, entries, ends, Purpose::Probe);
        for ((side, is_asked), unsent) in Side::BOTH.into_iter().zip(ends).zip(&unsent) {
            if is_asked {
                offloaded.asked.note(side, !unsent.as_ref().is_some_and(is_our_fault), asked_ms);
            }
        }
    }

    /// The same, also with questions that are answered whatever is wrong with what is known of their numbers.
    pub(super) fn search(
        &self,
        offloaded: &mut OffloadedFlow,
        entries: &[Option<Entry>; 2],
        ends: [bool; 2],
    ) {
        self.ask(offloaded, entries, ends);
        self.send(&offloaded.keys, entries, ends, Purpose::Search);
    }
}

/// What to do about a flow.
pub(super) fn next_step(
    offloaded: &mut OffloadedFlow,
    entries: &[Option<Entry>; 2],
    bounds: &Bounds,
) -> Step {
    let now_ms = sys::now_ms();
    let step = offloaded.first.next_step(entries, offloaded.moved_ms, bounds);
    let [Some(client), Some(server)] = entries else { return step };
    offloaded.asked.temper(step, [client, server], now_ms, bounds.keepalive)
}
