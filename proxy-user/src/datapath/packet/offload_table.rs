//! Flows without sockets, from the moment at which they have left them. One task looks at all of them: at each when the
//! programs have news of it, and when it is time to see whether its ends are still there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Entry, KEY_BYTES, Key};
use proxy_common::flow::{End, Reason};
use proxy_common::packet::asked::Asked;
use proxy_common::packet::life::{Bounds, Step};
use tokio::sync::Notify;

use super::PacketDatapath;
use super::adopt::{ANSWER, First};
use super::ask::next_step;
use super::attached::{Gaps, SeenGaps};
use super::end::Telling;
use super::journal::{Journal, Note};
use super::negotiated_options::NegotiatedOptions;
use super::progress::{note_last, note_progress};
use crate::hub::{AccessRecord, Active, Bytes, Flow, Hub};
use crate::sys;

/// Pause between two looks when an event was lost.
const ROUND: Duration = Duration::from_secs(1);

/// Flows that are looked at before it is the turn of others again.
const TURN: usize = 256;

/// Flows are looked at in step, so that one wake-up is for many of them: one for each that comes, and leaves again for its next
/// look, took a quarter of what a hand-over costs.
const BEAT: Duration = Duration::from_millis(50);

/// One flow.
pub(crate) struct OffloadedFlow {
    pub(super) flow: Arc<Flow>,
    pub(super) record: AccessRecord,
    pub(super) keys: [Key; 2],
    /// None: an earlier daemon has left no word of it.
    pub(super) options: Option<NegotiatedOptions>,
    /// None: its story is told already.
    pub(super) active: Option<Active>,
    /// It is over by a reset, which an end may not know of.
    pub(super) telling: Option<Telling>,
    /// When to look at it next. At first at once, almost: it may have ended before it came here.
    pub(super) due: Instant,
    pub(super) bytes: Bytes,
    pub(super) first: First,
    /// Since when they are asked in vain.
    pub(super) asked: Asked,
    /// What it has seen of gaps in the datapath.
    pub(super) gaps: SeenGaps,
    /// Whether its ends had ended their streams,
    pub(super) ended: [bool; 2],
    /// and when that or its bytes were last seen to change, by the entries' clock.
    pub(super) moved_ms: u32,
}

impl OffloadedFlow {
    pub(super) fn new(
        flow: Arc<Flow>,
        record: AccessRecord,
        keys: [Key; 2],
        options: Option<NegotiatedOptions>,
        active: Active,
        moved_ms: u32,
    ) -> Self {
        let (bytes, due, ended) = (flow.copied(), Instant::now(), [false; 2]);
        flow.moved_to(bytes, since(moved_ms));
        Self {
            flow,
            record,
            keys,
            options,
            active: Some(active),
            telling: None,
            due,
            bytes,
            first: First::default(),
            asked: Asked::default(),
            gaps: SeenGaps::default(),
            ended,
            moved_ms,
        }
    }
}

/// All of them, by the key of the client's packets.
pub(crate) struct OffloadTable {
    begun: Instant,
    inner: Mutex<Inner>,
    news: Notify,
    pub(super) gaps: Gaps,
    pub(super) journal: Journal,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) offloaded: HashMap<Key, OffloadedFlow>,
    due: BinaryHeap<Reverse<(Instant, [u32; 10])>>,
}

impl OffloadTable {
    pub(super) fn new(journal: &Path) -> Self {
        Self {
            begun: Instant::now(),
            inner: Mutex::default(),
            news: Notify::new(),
            gaps: Gaps::default(),
            journal: Journal::new(journal),
        }
    }

    /// The next daemon need not know of it.
    pub(super) fn forget(&self, keys: &[Key; 2]) {
        self.journal.remove(keys);
    }

    /// Some: a client has one flow only. It has taken the port of this one for the other, which is newer.
    fn put(&self, mut offloaded: OffloadedFlow) -> Option<OffloadedFlow> {
        offloaded.due = self.beat_after(offloaded.due);
        self.gaps.begin(&mut offloaded.gaps);
        let mut inner = self.inner();
        let [key, _] = offloaded.keys;
        if inner.offloaded.get(&key).is_some_and(|other| other.flow.id > offloaded.flow.id) {
            return Some(offloaded);
        }
        let is_first = inner.due.peek().is_none_or(|Reverse((at, _))| offloaded.due < *at);
        inner.due.push(Reverse((offloaded.due, key.to_words())));
        let older = inner.offloaded.insert(key, offloaded);
        drop(inner);
        if is_first {
            self.news.notify_one();
        }
        older
    }

    /// The first beat that is not before `moment`.
    fn beat_after(&self, moment: Instant) -> Instant {
        let beats = moment.saturating_duration_since(self.begun).as_nanos().div_ceil(BEAT.as_nanos());
        u32::try_from(beats).ok().and_then(|beats| self.begun.checked_add(BEAT * beats)).unwrap_or(moment)
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to look at a flow again, if at all.
    pub(super) fn look_after(&self, key: &Key, after: Option<Duration>) {
        let Some(after) = after else { return };
        let mut inner = self.inner();
        let Some(offloaded) = inner.offloaded.get_mut(key) else { return };
        let due = Instant::now() + after;
        // What is looked at this often is waited for.
        let due = if after < BEAT { due } else { self.beat_after(due) };
        offloaded.due = due;
        inner.due.push(Reverse((due, key.to_words())));
    }

    /// The next flow to be looked at, if its time has come; else when that will be.
    fn next(&self, now: Instant) -> Result<Key, Option<Instant>> {
        let mut inner = self.inner();
        while let Some(Reverse((at, words))) = inner.due.peek().copied() {
            if at > now {
                return Err(Some(at));
            }
            inner.due.pop();
            let key = Key::from_words(words);
            // It may have been looked at since, or be another flow.
            if inner.offloaded.get(&key).is_some_and(|offloaded| offloaded.due == at) {
                return Ok(key);
            }
        }
        Err(None)
    }
}

impl PacketDatapath {
    /// Looks after the flows, until the daemon ends. Must run inside the runtime.
    pub(crate) async fn watch(self: Arc<Self>, hub: Arc<Hub>) -> io::Result<()> {
        let Some(events) = self.packet.take_events() else { return Ok(()) };
        let mut events = sys::readable(events)?;
        let mut lost = self.packet.counters().lost_events;
        // Of its own, since they are lost when there are many: a wait that begins anew with each would never be over.
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut missed: Vec<Key> = Vec::new();
        loop {
            let rest = missed.len().saturating_sub(TURN);
            missed.drain(rest..).for_each(|key| self.look_at(&hub, &key));
            let next = if missed.is_empty() { self.look_at_due(&hub) } else { Some(Instant::now()) };
            tokio::select! {
                ready = events.readable_mut() => {
                    let mut ready = ready?;
                    while let Some(event) = ready.get_inner_mut().next() {
                        if let Some(key) = event.first_chunk::<KEY_BYTES>() {
                            self.look_at(&hub, &Key::from_bytes(key));
                        }
                    }
                    ready.clear_ready();
                }
                () = self.table.news.notified() => {}
                () = self.table.gaps.closed() => missed = self.table.inner().offloaded.keys().copied().collect(),
                flows = hub.flows.commands.next() => self.execute(&hub, &flows),
                () = sleep_until(next) => {}
                _ = round.tick() => {
                    let now = self.packet.counters().lost_events;
                    if missed.is_empty() && std::mem::replace(&mut lost, now) != now {
                        missed = self.table.inner().offloaded.keys().copied().collect();
                    }
                }
            }
        }
    }

    /// When to go on.
    fn look_at_due(self: &Arc<Self>, hub: &Arc<Hub>) -> Option<Instant> {
        for _ in 0..TURN {
            match self.table.next(Instant::now()) {
                Ok(key) => self.look_at(hub, &key),
                Err(next) => return next,
            }
        }
        Some(Instant::now())
    }

    fn look_at(self: &Arc<Self>, hub: &Arc<Hub>, key: &Key) {
        let after = self.look(hub, key);
        self.table.look_after(key, after);
    }

    /// Looks at one flow. Some: again after this time.
    fn look(self: &Arc<Self>, hub: &Arc<Hub>, key: &Key) -> Option<Duration> {
        let mut inner = self.table.inner();
        let offloaded = inner.offloaded.get_mut(key)?;
        if offloaded.active.is_none() {
            // It was over when it was last looked at, and has lingered since; or there is news of it meanwhile.
            if let Some(after) = self.linger(offloaded) {
                return Some(after);
            }
            let offloaded = inner.offloaded.remove(key)?;
            drop(inner);
            self.clear(&offloaded);
            return None;
        }
        let entries = self.entries(&offloaded.keys);
        note_progress(offloaded, &entries);
        offloaded.flow.count(&hub.meters, offloaded.bytes);
        if self.table.gaps.note(&mut offloaded.gaps, &entries) {
            offloaded.first = First::Due;
        }
        let step = next_step(offloaded, &entries, &bounds(&offloaded.flow));
        if !matches!(step, Step::Over(_))
            && let Some(wait) = self.wait_for_programs(bounds(&offloaded.flow).keepalive, &entries)
        {
            return match wait {
                Ok(after) => Some(after),
                Err(end) => self.cut_here(hub, inner, key, &entries, end),
            };
        }
        if offloaded.first.is_to_ask(&step) {
            self.ask(offloaded, &entries, [true; 2]);
            return Some(ANSWER);
        }
        match offloaded.gaps.cause(step) {
            Step::Wait(after) => Some(offloaded.gaps.limit(after)),
            Step::Probe(ends, after) => {
                self.ask(offloaded, &entries, ends);
                Some(offloaded.gaps.limit(after))
            }
            Step::Search(ends, after) => {
                self.search(offloaded, &entries, ends);
                Some(offloaded.gaps.limit(after))
            }
            Step::Over(end) => Some(self.note_over(hub, offloaded, &entries, end)),
            Step::Cut(end) if end.reason == Reason::IdleTimeout => {
                let (datapath, hub, key) = (Arc::clone(self), Arc::clone(hub), *key);
                tokio::spawn(async move { datapath.end_idle(&hub, key).await });
                None
            }
            Step::Cut(end) => self.cut_here(hub, inner, key, &entries, end),
        }
    }

    /// A flow has ended by itself. Returns when to look at it again.
    fn note_over(
        &self,
        hub: &Hub,
        offloaded: &mut OffloadedFlow,
        entries: &[Option<Entry>; 2],
        end: End,
    ) -> Duration {
        note_last(hub, offloaded, entries, end);
        tell(hub, offloaded, end);
        hub.flows.leave_parked(&offloaded.flow);
        self.table.forget(&offloaded.keys);
        if let Reason::Reset(_) = end.reason {
            let is_to_hear = |entry: &Option<Entry>| entry.is_some_and(|it| it.reset == 0);
            offloaded.telling = Some(Telling::new(entries.each_ref().map(is_to_hear)));
        }
        self.linger(offloaded).unwrap_or_default()
    }

    pub(super) fn clear(&self, offloaded: &OffloadedFlow) {
        self.packet.forget(&offloaded.keys);
        let [_, server] = &offloaded.keys;
        self.ports.give_back(server.source_address(), server.target_address());
    }

    /// Those that are the flow's: its client may have taken its port for another one.
    pub(super) fn entries(&self, [client, server]: &[Key; 2]) -> [Option<Entry>; 2] {
        [(client, server), (server, client)]
            .map(|(key, other)| self.packet.entry(key).ok().flatten().filter(|entry| entry.other() == *other))
    }

    /// Enters a flow, whose port is taken already.
    pub(super) fn park(&self, hub: &Hub, offloaded: OffloadedFlow) {
        self.table.journal.add(Note::of(&offloaded));
        self.put(hub, offloaded);
    }

    /// Enters a flow of an earlier daemon, but for the journal.
    pub(super) fn settle_in(&self, hub: &Hub, offloaded: OffloadedFlow) {
        let [_, server] = &offloaded.keys;
        let _ = self.packet.cover(server);
        self.ports.take(server.source_address(), server.target_address());
        self.put(hub, offloaded);
    }

    /// Puts a flow into the lot. One that its client has given up is over, and nothing is left of it: it may have had to be told
    /// so yet.
    pub(super) fn put(&self, hub: &Hub, offloaded: OffloadedFlow) {
        if let Some(mut older) = self.table.put(offloaded) {
            tell(hub, &mut older, End { reason: Reason::KernelLost, side: None });
            hub.flows.leave_parked(&older.flow);
            self.clear(&older);
        }
    }
}

pub(super) fn bounds(flow: &Flow) -> Bounds {
    let timeouts = &flow.config.timeouts;
    Bounds { half_close: timeouts.half_close, idle: timeouts.idle, keepalive: timeouts.keepalive }
}

/// Time since a moment of the entries' clock.
pub(super) fn since(ms: u32) -> Duration {
    Duration::from_millis(sys::now_ms().wrapping_sub(ms).into())
}

pub(super) fn tell(hub: &Hub, offloaded: &mut OffloadedFlow, end: End) {
    if offloaded.active.take().is_some() {
        offloaded.record.settle(hub, &offloaded.flow, end, offloaded.bytes);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::plan::Datapath;

    #[test]
    fn of_two_flows_of_one_client_the_newer_stays() {
        let (flows, meters) = (crate::hub::Flows::default(), crate::hub::Meters::new());
        let name = Arc::from("");
        let offloaded = |port: u16| {
            let flow = flows.adopt("10.0.0.1:5000".parse().unwrap(), &name, Arc::default());
            let server = Key { target_port: port, ..Key::default() };
            let active = meters.active(&name, Datapath::Packet);
            OffloadedFlow::new(flow, AccessRecord::default(), [Key::default(), server], None, active, 0)
        };
        let table = OffloadTable::new(Path::new("/nonexistent/journal"));
        let (one, other, last) = (offloaded(1), offloaded(2), offloaded(3));
        let port =
            |offloaded: Option<OffloadedFlow>| offloaded.map(|offloaded| offloaded.keys[1].target_port);
        assert_eq!(port(table.put(one)), None);
        assert_eq!(port(table.put(last)), Some(1));
        assert_eq!(port(table.put(other)), Some(2), "it was away meanwhile");
        assert_eq!(port(table.inner().offloaded.remove(&Key::default())), Some(3));
    }
}
