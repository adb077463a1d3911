//! Flows without sockets, from the moment at which they have left them. One task looks at all of them: at each when the
//! programs have news of it, and when it is time to see whether its ends are still there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Entry, KEY_BYTES, Key, address_from, state};
use proxy_common::flow::{End, Reason, Side};
use proxy_common::packet::craft::{Purpose, craft};
use proxy_common::packet::life::{self, Bounds, Step};
use proxy_common::plan::Datapath;
use tokio::sync::Notify;

use super::Road;
use super::journal::{Journal, Note};
use crate::hub::{Active, Bytes, Flow, Hub, Stage, Story};
use crate::sys;

/// A flow that is over keeps its entries for so long: its ends may still have to hear the last acknowledgement.
const LINGER: Duration = Duration::from_secs(10);

/// Pause between two looks when an event was lost.
const ROUND: Duration = Duration::from_secs(1);

/// One flow.
pub(crate) struct Parked {
    flow: Arc<Flow>,
    story: Story,
    keys: [Key; 2],
    /// None: its story is told already.
    active: Option<Active>,
    /// It is over by the reset of one end: the other one is told again and again, since its receiver may have to be told another
    /// number than that of the first.
    resets: [bool; 2],
    /// When to look at it next.
    due: Instant,
    bytes: Bytes,
}

impl Parked {
    pub(super) fn new(flow: Arc<Flow>, story: Story, keys: [Key; 2], active: Active) -> Self {
        let bytes = flow.copied();
        Self { flow, story, keys, active: Some(active), resets: [false; 2], due: Instant::now(), bytes }
    }
}

/// All of them, by the key of the client's packets.
pub(crate) struct Lot {
    inner: Mutex<Inner>,
    news: Notify,
    journal: Journal,
}

#[derive(Default)]
struct Inner {
    parked: HashMap<Key, Parked>,
    due: BinaryHeap<Reverse<(Instant, [u32; 10])>>,
}

impl Lot {
    pub(super) fn new(journal: &Path) -> Self {
        Self { inner: Mutex::default(), news: Notify::new(), journal: Journal::new(journal) }
    }

    pub(super) fn enter(&self, parked: Parked) {
        self.journal.add(&note(&parked));
        self.put(parked);
        self.news.notify_one();
    }

    fn put(&self, parked: Parked) {
        let mut inner = self.inner();
        let [key, _] = parked.keys;
        inner.due.push(Reverse((parked.due, key.to_words())));
        inner.parked.insert(key, parked);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
            if inner.parked.get(&key).is_some_and(|parked| parked.due == at) {
                return Ok(key);
            }
        }
        Err(None)
    }
}

impl Road {
    /// Looks after the flows, until the daemon ends. Must run inside the runtime.
    pub(crate) async fn watch(self: Arc<Self>, hub: Arc<Hub>) -> io::Result<()> {
        let Some(events) = self.packet.take_events() else { return Ok(()) };
        let mut events = sys::readable(events)?;
        let mut lost = self.packet.counters().lost_events;
        loop {
            let next = self.look_at_due(&hub);
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
                () = self.lot.news.notified() => {}
                () = sleep_until(next) => {}
                () = tokio::time::sleep(ROUND) => {
                    let now = self.packet.counters().lost_events;
                    if std::mem::replace(&mut lost, now) != now {
                        let keys: Vec<_> = self.lot.inner().parked.keys().copied().collect();
                        keys.iter().for_each(|key| self.look_at(&hub, key));
                    }
                }
            }
        }
    }

    fn look_at_due(&self, hub: &Hub) -> Option<Instant> {
        loop {
            match self.lot.next(Instant::now()) {
                Ok(key) => self.look_at(hub, &key),
                Err(next) => return next,
            }
        }
    }

    fn look_at(&self, hub: &Hub, key: &Key) {
        let Some(after) = self.look(hub, key) else { return };
        let mut inner = self.lot.inner();
        let Some(parked) = inner.parked.get_mut(key) else { return };
        parked.due = Instant::now() + after;
        let due = parked.due;
        inner.due.push(Reverse((due, key.to_words())));
    }

    /// Looks at one flow. Some: again after this time.
    fn look(&self, hub: &Hub, key: &Key) -> Option<Duration> {
        let mut inner = self.lot.inner();
        let parked = inner.parked.get_mut(key)?;
        if parked.active.is_none() {
            // It was over when it was last looked at, and has lingered since; or there is news of it meanwhile.
            if self.is_lingering(parked) {
                return Some(self.tell_resets(parked));
            }
            let parked = inner.parked.remove(key)?;
            drop(inner);
            self.clear(&parked);
            return None;
        }
        let entries = self.entries(&parked.keys);
        match life::step(entries.each_ref().map(Option::as_ref), sys::now_ms(), &bounds(hub)) {
            Step::Wait(after) => {
                note_progress(parked, &entries);
                Some(after)
            }
            Step::Probe(ends, after) => {
                note_progress(parked, &entries);
                self.send(parked, &entries, ends, Purpose::Probe);
                Some(after)
            }
            Step::Over(end) => {
                note_progress(parked, &entries);
                tell(hub, parked, end);
                hub.flows.leave_parked(&parked.flow);
                self.lot.journal.remove(&parked.keys);
                if let Reason::Reset(side) = end.reason {
                    parked.resets = [side == Side::Upstream, side == Side::Client];
                }
                Some(self.tell_resets(parked))
            }
            Step::Cut(end) => {
                note_progress(parked, &entries);
                let mut parked = inner.parked.remove(key)?;
                drop(inner);
                self.cut(hub, &mut parked, &entries, end);
                None
            }
        }
    }

    /// Tells the end that may not know it yet. A reset that is not at the number that it expects it does not believe, and it asks
    /// back but rarely (RFC 5961). Says when to look again.
    fn tell_resets(&self, parked: &Parked) -> Duration {
        if parked.resets == [false; 2] {
            return LINGER;
        }
        let entries = self.entries(&parked.keys);
        self.send(parked, &entries, parked.resets, Purpose::Reset);
        ROUND
    }

    fn is_lingering(&self, parked: &Parked) -> bool {
        let entries = self.entries(&parked.keys);
        let [Some(client), Some(server)] = &entries else { return false };
        let is_dead = client.state == state::DEAD || server.state == state::DEAD;
        !is_dead && life::rested([client, server], sys::now_ms()) < LINGER
    }

    /// Ends a flow that would not end by itself: both ends are told by a reset.
    fn cut(&self, hub: &Hub, parked: &mut Parked, entries: &[Option<Entry>; 2], end: End) {
        self.clear(parked);
        self.send(parked, entries, [true; 2], Purpose::Reset);
        tell(hub, parked, end);
        hub.flows.leave_parked(&parked.flow);
        self.lot.journal.remove(&parked.keys);
    }

    fn clear(&self, parked: &Parked) {
        self.packet.forget(&parked.keys);
        let [_, server] = &parked.keys;
        self.ports.give_back(source(server), target(server).port());
    }

    fn entries(&self, keys: &[Key; 2]) -> [Option<Entry>; 2] {
        keys.each_ref().map(|key| self.packet.entry(key).ok().flatten())
    }

    fn send(&self, parked: &Parked, entries: &[Option<Entry>; 2], ends: [bool; 2], purpose: Purpose) {
        let [Some(client), Some(server)] = entries else { return };
        let [client_key, server_key] = &parked.keys;
        let legs = [(client_key, client, server), (server_key, server, client)];
        for ((key, own, other), wanted) in legs.into_iter().zip(ends) {
            if !wanted {
                continue;
            }
            let made = craft(purpose, key, own, other, sys::now_ms());
            let bytes = made.bytes.get(..made.len).unwrap_or_default();
            let sent = sys::send_segment(target(key).ip(), source(key).ip(), bytes);
            if let Err(error) = sent {
                tracing::debug!(flow = parked.flow.id, %error, "an end cannot be told");
            }
        }
    }

    /// Ends all flows with resets: the operator wants none to outlive the daemon.
    pub(crate) fn release(&self, hub: &Hub) {
        let all: Vec<Parked> = self.lot.inner().parked.drain().map(|(_, parked)| parked).collect();
        for mut parked in all {
            let entries = self.entries(&parked.keys);
            note_progress(&mut parked, &entries);
            let end = End { reason: Reason::Drain, side: None };
            if parked.active.is_some() {
                self.cut(hub, &mut parked, &entries, end);
            } else {
                self.clear(&parked);
            }
        }
    }

    /// Leaves all flows to the next daemon. Says how many there are.
    pub(crate) fn abandon(&self, hub: &Hub) -> usize {
        let all: Vec<Parked> = self.lot.inner().parked.drain().map(|(_, parked)| parked).collect();
        for parked in &all {
            hub.flows.leave_parked(&parked.flow);
            if parked.active.is_none() {
                self.clear(parked);
            }
        }
        all.iter().filter(|parked| parked.active.is_some()).count()
    }

    /// The port of a flow that leaves its sockets is not for others.
    fn take_port(&self, [_, server]: &[Key; 2]) {
        let _ = self.packet.cover(server);
        self.ports.take(source(server), target(server).port());
    }

    /// Enters a flow.
    pub(super) fn park(&self, parked: Parked) {
        self.take_port(&parked.keys);
        self.lot.enter(parked);
    }
}

fn bounds(hub: &Hub) -> Bounds {
    let timeouts = &hub.snapshot.timeouts;
    Bounds { half_close: timeouts.half_close, idle: timeouts.idle, keepalive: timeouts.keepalive }
}

/// Bytes that are not in the entries any more are known from here.
fn note_progress(parked: &mut Parked, entries: &[Option<Entry>; 2]) {
    for (bytes, entry) in parked.bytes.iter_mut().zip(entries) {
        if let Some(entry) = entry {
            *bytes = life::bytes(entry);
        }
    }
}

fn tell(hub: &Hub, parked: &mut Parked, end: End) {
    if parked.active.take().is_some() {
        parked.story.settle(hub, &parked.flow, end, parked.bytes);
    }
}

pub(super) fn source(key: &Key) -> SocketAddr {
    SocketAddr::new(address_from(&key.source), u16::from_be(key.source_port))
}

pub(super) fn target(key: &Key) -> SocketAddr {
    SocketAddr::new(address_from(&key.target), u16::from_be(key.target_port))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn note(parked: &Parked) -> Note {
    let facts = parked.flow.facts().clone();
    Note {
        keys: parked.keys.each_ref().map(Key::to_words),
        listener: parked.flow.listener.to_string(),
        sni: facts.sni,
        route: facts.route.to_string(),
        upstream: facts.upstream.map(|name| name.to_string()),
        age_ms: u64::try_from((parked.story.before + parked.flow.accepted.elapsed()).as_millis())
            .unwrap_or(0),
        clock_ms: sys::uptime_ms(),
        hello_ms: parked.story.hello.map(|time| u64::try_from(time.as_millis()).unwrap_or(0)),
        connect_ms: parked.story.connect.map(|time| u64::try_from(time.as_millis()).unwrap_or(0)),
    }
}

/// Finds the flows of an earlier daemon in the maps, and their names in the journal. What was in the middle of a hand-over
/// has no sockets any more: the stack resets it.
pub(super) fn adopt(road: &Road, hub: &Hub) {
    let entries: HashMap<Key, Entry> = road.packet.entries().into_iter().collect();
    let notes = road.lot.journal.load();
    let mut adopted = 0_usize;
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
            let parked = revive(hub, keys, notes.get(&key.to_words()), entry, entries.get(&other));
            road.park(parked);
            adopted += 1;
        }
    }
    road.lot.journal.forget_all_but(&entries.keys().map(Key::to_words).collect());
    if adopted > 0 {
        tracing::info!(flows = adopted, "flows without sockets have outlived the last daemon");
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
    Parked::new(flow, story, keys, hub.meters.active(&route, Datapath::Packet))
}
