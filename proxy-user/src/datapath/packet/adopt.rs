//! Flows that an earlier daemon has left without sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::abi::packet::{Entry, Key, state};
use proxy_common::packet::life;
use proxy_common::packet::seq::later;
use proxy_common::plan::Datapath;

use super::Road;
use super::journal::Note;
use super::lot::{Parked, source, target};
use crate::hub::{Hub, Stage, Story};
use crate::sys;

/// A daemon that is killed between a flow's entries and the close of its sockets leaves both: the kernel resets its ends, which say
/// nothing any more. So the ends of flows that were in use so lately are asked when each is first looked at.
const RECENT: Duration = Duration::from_secs(60);

/// Finds the flows of an earlier daemon in the maps, and their names in the journal. What was in the middle of a hand-over
/// has no sockets any more: the stack resets it.
pub(super) fn adopt(road: &Road, hub: &Hub) {
    // The kernel must not take the daemon for dead meanwhile: with many flows this takes a while.
    road.tend_during(|| find(road, hub));
}

fn find(road: &Road, hub: &Hub) {
    let entries: HashMap<Key, Entry> = road.packet.entries().into_iter().collect();
    let notes = road.lot.journal.load();
    let mut adopted = Vec::new();
    for (key, entry) in &entries {
        let other = entry.other();
        let whole = entry.state == state::FORWARD
            && entries.get(&other).is_some_and(|back| back.state == state::FORWARD && back.other() == *key);
        if !whole {
            road.packet.forget(&[*key, other]);
            continue;
        }
        if entry.leg == 0 {
            let keys = [*key, other];
            let back = entries.get(&other);
            let mut parked = revive(hub, keys, notes.get(&key.to_words()), entry, back);
            parked.is_to_ask = back.is_some_and(|back| life::rested([entry, back], sys::now_ms()) < RECENT);
            adopted.push(Note::of(&parked));
            road.settle_in(parked);
        }
    }
    let flows = adopted.len();
    road.lot.journal.begin_with(adopted);
    if flows > 0 {
        tracing::info!(flows, "flows without sockets have outlived the last daemon");
    }
}

fn revive(hub: &Hub, keys: [Key; 2], known: Option<&Note>, entry: &Entry, back: Option<&Entry>) -> Parked {
    let [client, server] = &keys;
    let listener: Arc<str> = known.map_or("", |note| note.listener.as_str()).into();
    let flow = hub.flows.adopt(source(client), &listener);
    let mut facts = flow.facts();
    facts.stage = Stage::Carry;
    facts.sni = known.and_then(|note| note.sni.clone());
    facts.route = known.map_or("", |note| note.route.as_str()).into();
    facts.upstream = known.and_then(|note| note.upstream.as_deref()).map(Arc::from);
    facts.server = Some(source(server));
    facts.upstream_local = Some(target(server));
    facts.datapath = Some(Datapath::Packet);
    facts.keys = Some(keys);
    // What was carried before counts for the daemon that carried it.
    for (meter, entry) in facts.reported.iter_mut().zip([Some(entry), back]) {
        let _ = meter.advance(entry.map_or(0, life::bytes));
    }
    let route = Arc::clone(&facts.route);
    drop(facts);
    let millis = Duration::from_millis;
    let story = Story {
        before: known.map_or(Duration::ZERO, |note| {
            millis(note.age_ms.saturating_add(sys::uptime_ms().saturating_sub(note.clock_ms)))
        }),
        hello: known.and_then(|note| note.hello_ms).map(millis),
        connect: known.and_then(|note| note.connect_ms).map(millis),
        ..Story::default()
    };
    let terms = known.and_then(|note| note.terms);
    let moved_ms = back.map_or(entry.active_ms, |back| later(entry.active_ms, back.active_ms));
    Parked::new(flow, story, keys, terms, hub.meters.active(&route, Datapath::Packet), moved_ms)
}
