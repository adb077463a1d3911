//! Flows that an earlier daemon has left without sockets.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::abi::packet::{Answer, Entry, Key, state};
use proxy_common::flow::Reason;
use proxy_common::packet::life::{self, Bounds, Step};
use proxy_common::packet::seq::later;
use proxy_common::plan::Datapath;

use super::PacketDatapath;
use super::journal::{Journal, Note};
use super::offload_table::OffloadedFlow;
use crate::hub::{AccessRecord, Hub, Stage};
use crate::sys;

/// Peers of adopted connections have so long to answer before anything is decided about their connection.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// Between the questions to the peers of two adopted connections, so that a million questions are no burst.
const PACE: Duration = Duration::from_micros(20);

/// The first question to the peers of an adopted connection. Nobody has asked them while no daemon ran, so that their silence says
/// nothing: it counts from the question on. Peers that the kernel has reset when the last daemon was killed answer with a reset.
/// `idle` and `half_close` go by real time, also without a daemon; a connection that has reached them is asked all the same
/// before it is ended, so that its record names the true reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum First {
    /// Not adopted.
    #[default]
    None,
    /// To be asked at the first look.
    Due,
    /// Asked at this time, by the entries' clock.
    Asked(u32),
}

impl First {
    /// The entries, with peers that were heard of when they were asked, at the latest.
    fn heard(self, entries: &[Option<Entry>; 2]) -> [Option<Entry>; 2] {
        let Self::Asked(asked_ms) = self else { return *entries };
        entries.map(|entry| entry.map(|entry| Entry { active_ms: later(entry.active_ms, asked_ms), ..entry }))
    }

    /// What to do about the connection.
    pub(super) fn next_step(self, entries: &[Option<Entry>; 2], moved_ms: u32, bounds: &Bounds) -> Step {
        life::step(self.heard(entries).each_ref().map(Option::as_ref), moved_ms, sys::now_ms(), bounds)
    }

    /// Whether the peers are to be asked now, before `step` is taken. A connection that has ended is not asked.
    pub(super) fn is_to_ask(&mut self, step: &Step) -> bool {
        let is_over = match step {
            Step::Over(_) => true,
            Step::Cut(end) => end.reason == Reason::KernelLost,
            Step::Wait(_) | Step::Probe(..) | Step::Search(..) => false,
        };
        let is_due = *self == Self::Due && !is_over;
        if is_due {
            *self = Self::Asked(sys::now_ms());
        }
        is_due
    }
}

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
        let Some(back) = back.filter(|back| fit(entry, back)) else { return Self::Broken };
        match (entry.state, back.state) {
            (state::FORWARD, state::FORWARD) => Self::Whole,
            (state::HELD, state::HELD) => Self::Held,
            _ => Self::Broken,
        }
    }
}

/// Whether the two entries are those of one connection: what one of them adds to a number the other one takes away. Others would
/// translate into numbers that no peer knows.
fn fit(one: &Entry, other: &Entry) -> bool {
    let undo = |a: u32, b: u32| a.wrapping_add(b) == 0;
    one.leg.min(other.leg) == 0
        && one.leg.max(other.leg) == 1
        && undo(one.seq, other.ack)
        && undo(other.seq, one.ack)
        && undo(one.stamp, other.echo)
        && undo(other.stamp, one.echo)
}

/// Finds the flows of an earlier daemon in the maps, and their names in the journal. What was on its way out of its sockets
/// has none any more: the stack resets it. What was on its way back goes on.
/// `journal`: where the last daemon has written names, if that is known; else it is the one of the configuration.
pub(super) fn adopt(datapath: &PacketDatapath, hub: &Hub, journal: Option<&Path>) {
    // The kernel must not take the daemon for dead meanwhile: with many flows this takes a while.
    datapath.tend_during(|| find(datapath, hub, journal));
}

fn find(datapath: &PacketDatapath, hub: &Hub, journal: Option<&Path>) {
    let entries: HashMap<Key, Entry> = datapath.packet.entries().into_iter().collect();
    let notes = journal.map_or_else(|| datapath.table.journal.load(), Journal::load_from);
    let (mut adopted, mut removed) = (Vec::new(), 0);
    for (key, entry) in &entries {
        let other = entry.other();
        let back = entries.get(&other).filter(|back| back.other() == *key);
        let is_whole = match Remains::of(entry, back) {
            Remains::Whole => true,
            // Both halves at once, by that of the client.
            Remains::Held => {
                entry.leg != 0 || datapath.packet.resume(key).is_ok_and(|answer| answer == Answer::Done)
            }
            Remains::Broken => false,
        };
        if !is_whole {
            datapath.packet.forget(&[*key, other]);
            removed += 1;
            continue;
        }
        if entry.leg == 0 {
            let keys = [*key, other];
            let mut offloaded = revive(hub, keys, notes.get(&key.to_words()), entry, back);
            offloaded.first = First::Due;
            offloaded.due += PACE * u32::try_from(adopted.len()).unwrap_or(u32::MAX);
            adopted.push(Note::of(&offloaded));
            datapath.settle_in(hub, offloaded);
        }
    }
    let flows = adopted.len();
    datapath.table.journal.begin_with(adopted);
    if removed > 0 {
        tracing::info!(
            entries = removed,
            "removed entries of offloaded connections that cannot continue; their peers are reset"
        );
    }
    if flows > 0 {
        tracing::info!(flows, "offloaded connections have survived the last daemon");
    }
}

fn revive(
    hub: &Hub,
    keys: [Key; 2],
    known: Option<&Note>,
    entry: &Entry,
    back: Option<&Entry>,
) -> OffloadedFlow {
    let [client, server] = &keys;
    let listener: Arc<str> = known.map_or("", |note| note.listener.as_str()).into();
    let flow = hub.flows.adopt(client.source_address(), &listener, hub.config.current());
    let mut facts = flow.facts();
    facts.stage = Stage::Carry;
    facts.sni = known.and_then(|note| note.sni.clone());
    facts.route = known.map_or("", |note| note.route.as_str()).into();
    facts.upstream = known.and_then(|note| note.upstream.as_deref()).map(Arc::from);
    facts.server = Some(server.source_address());
    facts.upstream_local = Some(server.target_address());
    facts.datapath = Some(Datapath::Packet);
    facts.keys = Some(Box::new(keys));
    // What was carried before counts for the daemon that carried it.
    if let Some(back) = back {
        for (meter, (entry, other)) in facts.reported.iter_mut().zip([(entry, back), (back, entry)]) {
            let _ = meter.advance(life::bytes(entry, other));
        }
    }
    let route = Arc::clone(&facts.route);
    let protected = flow.config.protects(facts.upstream.as_deref());
    drop(facts);
    let record = AccessRecord {
        before: known.map_or(Duration::ZERO, |note| {
            let since = sys::uptime_ms().saturating_sub(note.clock_ms);
            Duration::from_millis(note.age_ms.saturating_add(since))
        }),
        hello_ms: known.and_then(|note| note.hello_ms),
        connect_ms: known.and_then(|note| note.connect_ms),
        established: hub.sources.get().map(|sources| sources.established(flow.client.ip(), protected)),
        source_permit: hub.source_limits.current().map(|limiter| limiter.keep(flow.client.ip())),
        ..AccessRecord::default()
    };
    let options = known.and_then(|note| note.options);
    let moved_ms = back.map_or(entry.active_ms, |back| later(entry.active_ms, back.active_ms));
    OffloadedFlow::new(flow, record, keys, options, hub.meters.active(&route, Datapath::Packet), moved_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::flow::End;

    #[test]
    fn what_was_held_goes_on_and_what_is_not_whole_does_not() {
        let entry = |leg, state| Entry { leg, state, ..Entry::default() };
        let remains = |one, other| Remains::of(&entry(0, one), Some(&entry(1, other)));
        assert_eq!(remains(state::FORWARD, state::FORWARD), Remains::Whole);
        assert_eq!(remains(state::HELD, state::HELD), Remains::Held);
        for (one, other) in
            [(state::FORWARD, state::HELD), (state::DEAD, state::DEAD), (state::ARMED, state::ARMED)]
        {
            assert_eq!(remains(one, other), Remains::Broken);
        }
        assert_eq!(Remains::of(&entry(0, state::FORWARD), None), Remains::Broken);
    }

    #[test]
    fn entries_that_do_not_undo_each_other_are_not_one_connection() {
        let one = Entry { leg: 0, seq: 7, ack: 5, stamp: 3, echo: 1, ..Entry::default() };
        let undo = |number: u32| 0_u32.wrapping_sub(number);
        let other = Entry {
            leg: 1,
            seq: undo(one.ack),
            ack: undo(one.seq),
            stamp: undo(one.echo),
            echo: undo(one.stamp),
            ..one
        };
        assert!(fit(&one, &other) && fit(&other, &one));
        for strange in [
            Entry { leg: 0, ..other },
            Entry { seq: 1, ..other },
            Entry { ack: 1, ..other },
            Entry { stamp: 1, ..other },
            Entry { echo: 1, ..other },
        ] {
            assert!(!fit(&one, &strange) && !fit(&strange, &one), "{strange:?}");
        }
    }

    #[test]
    fn silence_counts_from_the_first_question_on_and_what_is_over_is_not_asked() {
        let mut first = First::Due;
        assert!(!first.is_to_ask(&Step::Over(End { reason: Reason::Eof, side: None })));
        assert!(!First::None.is_to_ask(&Step::Wait(ANSWER)));
        assert!(first.is_to_ask(&Step::Cut(End { reason: Reason::IdleTimeout, side: None })));
        assert!(!first.is_to_ask(&Step::Wait(ANSWER)), "once");
        let entries = [Entry { active_ms: 5, ..Entry::default() }; 2].map(Some);
        let active = |first: First| first.heard(&entries).map(|entry| entry.unwrap().active_ms);
        assert_eq!(active(First::Asked(9)), [9; 2]);
        assert_eq!(active(First::Asked(2)), [5; 2]);
        assert_eq!(active(First::Due), [5; 2]);
        let bounds = Bounds { half_close: ANSWER, idle: ANSWER, keepalive: ANSWER };
        let idle = Step::Cut(End { reason: Reason::IdleTimeout, side: None });
        let now_ms = sys::now_ms();
        let long_ago = now_ms.wrapping_sub(1_000_000);
        assert_eq!(First::Asked(now_ms).next_step(&entries, long_ago, &bounds), idle, "by real time");
        let patient = Bounds { idle: Duration::ZERO, ..bounds };
        let silent = entries.map(|entry| entry.map(|entry| Entry { active_ms: long_ago, ..entry }));
        let step = |first: First| first.next_step(&silent, long_ago, &patient);
        assert!(matches!(step(First::Asked(now_ms)), Step::Wait(_) | Step::Probe(..)));
        assert!(matches!(step(First::Due), Step::Cut(_)), "asked before that is done");
    }
}
