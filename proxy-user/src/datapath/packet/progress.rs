//! Bytes of a flow without sockets, as its entries tell.

use proxy_common::abi::packet::Entry;
use proxy_common::flow::{End, Reason};
use proxy_common::packet::life;
use proxy_common::packet::seq::later;
use proxy_common::packet::seq_validation::is_acknowledged;

use super::offload_table::{OffloadedFlow, since};
use crate::hub::Hub;

/// Bytes that are not in the entries any more are known from here. What answers to probes is no progress, nor is what nobody has
/// acknowledged.
pub(super) fn note_progress(offloaded: &mut OffloadedFlow, entries: &[Option<Entry>; 2]) {
    let [Some(client), Some(server)] = entries else {
        offloaded.flow.moved_to(offloaded.bytes, since(offloaded.moved_ms));
        return;
    };
    let known = offloaded.bytes.iter_mut().zip(&mut offloaded.ended);
    for ((bytes, ended), (entry, other)) in known.zip([(client, server), (server, client)]) {
        let now = (life::bytes(entry, other), is_acknowledged(entry, other));
        if now != (*bytes, *ended) {
            (*bytes, *ended) = now;
            offloaded.moved_ms = later(offloaded.moved_ms, later(entry.active_ms, other.active_ms));
        }
    }
    offloaded.flow.moved_to(offloaded.bytes, since(offloaded.moved_ms));
}

/// Of a flow that has not ended in order, the last acknowledgements may be lost.
pub(super) fn note_last(hub: &Hub, offloaded: &mut OffloadedFlow, entries: &[Option<Entry>; 2], end: End) {
    if end.reason != Reason::Eof
        && let [Some(client), Some(server)] = entries
    {
        offloaded.bytes = [life::most_bytes(client, server), life::most_bytes(server, client)];
    }
    offloaded.flow.count(&hub.meters, offloaded.bytes);
}
