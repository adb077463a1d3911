//! Flows that an earlier daemon has left without sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::abi::packet::{Answer, Entry, Key, state};
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

/// What a daemon has left of a flow, as one of its entries and the other one tell.
#[derive(Debug, PartialEq, Eq)]
enum Remains {
    Whole,
    /// It was on its way back into sockets, which it did not get.
    Held,
    /// It was on its way out of its sockets.
    Broken,
}

impl Remains {
    fn of(entry: &Entry, back: Option<&Entry>) -> Self {
        match back.map(|back| (entry.state, back.state)) {
            Some((state::FORWARD, state::FORWARD)) => Self::Whole,
            Some((state::HELD, state::HELD)) => Self::Held,
            _ => Self::Broken,
        }
    }
}

/// Finds the flows of an earlier daemon in the maps, and their names in the journal. What was on its way out of its sockets
/// has none any more: the stack resets it. What was on its way back goes on.
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
        let back = entries.get(&other).filter(|back| back.other() == *key);
        let is_whole = match Remains::of(entry, back) {
            Remains::Whole => true,
            // Both halves at once, by that of the client.
            Remains::Held => {
                entry.leg != 0 || road.packet.resume(key).is_ok_and(|answer| answer == Answer::Done)
            }
            Remains::Broken => false,
        };
        if !is_whole {
            road.packet.forget(&[*key, other]);
            continue;
        }
        if entry.leg == 0 {
            let keys = [*key, other];
            let mut parked = revive(hub, keys, notes.get(&key.to_words()), entry, back);
            parked.is_to_ask = back.is_some_and(|back| life::rested([entry, back], sys::now_ms()) < RECENT);
            adopted.push(Note::of(&parked));
            road.settle_in(hub, parked);
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
    let protected = hub.snapshot.protects(facts.upstream.as_deref());
    drop(facts);
    let millis = Duration::from_millis;
    let story = Story {
        before: known.map_or(Duration::ZERO, |note| {
            millis(note.age_ms.saturating_add(sys::uptime_ms().saturating_sub(note.clock_ms)))
        }),
        hello: known.and_then(|note| note.hello_ms).map(millis),
        connect: known.and_then(|note| note.connect_ms).map(millis),
        established: hub.sources.get().map(|sources| sources.established(flow.client.ip(), protected)),
        claim: hub.caps.as_ref().map(|caps| caps.keep(flow.client.ip())),
        ..Story::default()
    };
    let terms = known.and_then(|note| note.terms);
    let moved_ms = back.map_or(entry.active_ms, |back| later(entry.active_ms, back.active_ms));
    Parked::new(flow, story, keys, terms, hub.meters.active(&route, Datapath::Packet), moved_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_goes_on_and_what_is_not_whole_does_not() {
        let entry = |state| Entry { state, ..Entry::default() };
        let remains = |one, other| Remains::of(&entry(one), Some(&entry(other)));
        assert_eq!(remains(state::FORWARD, state::FORWARD), Remains::Whole);
        assert_eq!(remains(state::HELD, state::HELD), Remains::Held);
        for (one, other) in
            [(state::FORWARD, state::HELD), (state::DEAD, state::DEAD), (state::ARMED, state::ARMED)]
        {
            assert_eq!(remains(one, other), Remains::Broken);
        }
        assert_eq!(Remains::of(&entry(state::FORWARD), None), Remains::Broken);
    }
}
