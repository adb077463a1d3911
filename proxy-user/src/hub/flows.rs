//! The connections that are alive, from accept to close.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::Key;
use proxy_common::abi::sockmap::Place;
use proxy_common::flow::{Meter, Reason};
use proxy_common::plan::Datapath;
use tokio::sync::Notify;

use super::snapshot::Snapshot;
use super::{Commands, Order, Orders};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting for its hello.
    Hello,
    /// Waiting for an upstream server.
    Connect,
    /// Carrying bytes.
    Carry,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Connect => "connect",
            Self::Carry => "carry",
        }
    }
}

/// One connection.
pub(crate) struct Flow {
    /// Counts up from 1 since the daemon started.
    pub(crate) id: u64,
    pub(crate) client: SocketAddr,
    pub(crate) listener: Arc<str>,
    /// The configuration that it was accepted under, which holds for it to its end.
    pub(crate) config: Arc<Snapshot>,
    pub(crate) accepted: Instant,
    /// Rung when its sockets, or the kernel's verdict on them, have news.
    pub(crate) wake: Notify,
    /// Bytes that userspace has written, client to upstream first.
    pub(crate) copied: [AtomicU64; 2],
    /// Bytes that went by before it got the sockets that it has, if it had others.
    pub(crate) restored: [AtomicU64; 2],
    /// Why it is to be ended in order, since it has got sockets for that only.
    pub(crate) closing: OnceLock<Reason>,
    /// Packets go past its sockets, which only finish what they have begun: they know nothing of its end.
    pub(crate) leaving: AtomicBool,
    /// When a byte was last known to move, in milliseconds since it was accepted. The verdict knows better of those that it sees.
    moved_ms: AtomicU64,
    /// Bytes both ways as of then, of a flow that has no sockets.
    moved_bytes: AtomicU64,
    /// Why a peer was not told of its end, if it was not: it had no sockets.
    pub(crate) untold: OnceLock<String>,
    pub(crate) orders: Orders,
    facts: Mutex<Facts>,
}

/// What becomes known of a connection on its way.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) stage: Stage,
    pub(crate) sni: Option<Box<str>>,
    /// Name of the route, `listener/NAME` where the listener names the upstream, empty until known.
    pub(crate) route: Arc<str>,
    pub(crate) upstream: Option<Arc<str>>,
    pub(crate) server: Option<SocketAddr>,
    pub(crate) upstream_local: Option<SocketAddr>,
    pub(crate) datapath: Option<Datapath>,
    /// Where the verdict counts its bytes, client first, while the kernel carries the flow.
    pub(crate) places: Option<[Place; 2]>,
    /// What its packets bear, the client's first, once it has left its sockets.
    pub(crate) keys: Option<Box<[Key; 2]>>,
    /// Why it was last found that it cannot leave its sockets, or not get any.
    pub(crate) obstacle: Option<Cow<'static, str>>,
    /// Bytes that the meters have been told of, client to upstream first.
    pub(crate) reported: [Meter; 2],
}

impl Flow {
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A byte moved so long ago.
    pub(crate) fn moved(&self, rested: Duration) {
        let at = self.accepted.elapsed().saturating_sub(rested).as_millis();
        self.moved_ms.fetch_max(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The same of a flow that has no sockets, and how many bytes that makes.
    pub(crate) fn moved_to(&self, bytes: [u64; 2], rested: Duration) {
        self.moved(rested);
        self.moved_bytes.store(bytes.iter().sum(), Ordering::Relaxed);
    }

    /// Whether no byte more is known than when one last moved.
    pub(crate) fn is_still_at(&self, bytes: [u64; 2]) -> bool {
        self.moved_bytes.load(Ordering::Relaxed) == bytes.iter().sum::<u64>()
    }

    /// For how long no byte is known to have moved.
    pub(crate) fn rested(&self) -> Duration {
        self.accepted.elapsed().saturating_sub(Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)))
    }

    /// Bytes copied by userspace so far, client to upstream first.
    pub(crate) fn copied(&self) -> [u64; 2] {
        self.copied.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// The same, without those of earlier sockets.
    pub(crate) fn copied_here(&self) -> [u64; 2] {
        let [before_up, before_down] = self.restored.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
        let [up, down] = self.copied();
        [up.saturating_sub(before_up), down.saturating_sub(before_down)]
    }

    /// It left its sockets once, and got others.
    pub(crate) fn had_other_sockets(&self) -> bool {
        self.restored.iter().any(|bytes| bytes.load(Ordering::Relaxed) > 0)
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Flows {
    next: AtomicU64,
    live: Mutex<Live>,
    idle: Notify,
    /// What was ordered of flows without sockets.
    pub(crate) commands: Commands,
}

#[derive(Default)]
struct Live {
    by_id: HashMap<u64, Arc<Flow>>,
    /// Those that have left their sockets: nobody waits for them.
    offloaded: HashMap<u64, Arc<Flow>>,
    by_cookie: HashMap<u64, u64>,
}

impl Flows {
    /// Enters a connection. It leaves when the returned value is dropped.
    pub(crate) fn enter(&self, client: SocketAddr, listener: &Arc<str>, config: Arc<Snapshot>) -> Entry<'_> {
        let flow = self.make(client, listener, config);
        self.live().by_id.insert(flow.id, Arc::clone(&flow));
        Entry { flows: self, flow }
    }

    /// Enters a flow of an earlier daemon, which has no sockets.
    pub(crate) fn adopt(&self, client: SocketAddr, listener: &Arc<str>, config: Arc<Snapshot>) -> Arc<Flow> {
        let flow = self.make(client, listener, config);
        self.live().offloaded.insert(flow.id, Arc::clone(&flow));
        flow
    }

    fn make(&self, client: SocketAddr, listener: &Arc<str>, config: Arc<Snapshot>) -> Arc<Flow> {
        Arc::new(Flow {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            client,
            listener: Arc::clone(listener),
            config,
            accepted: Instant::now(),
            wake: Notify::new(),
            copied: [AtomicU64::new(0), AtomicU64::new(0)],
            restored: [AtomicU64::new(0), AtomicU64::new(0)],
            closing: OnceLock::new(),
            untold: OnceLock::new(),
            leaving: AtomicBool::new(false),
            moved_ms: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            orders: Orders::default(),
            facts: Mutex::new(Facts {
                stage: Stage::Hello,
                sni: None,
                route: Arc::from(""),
                upstream: None,
                server: None,
                upstream_local: None,
                datapath: None,
                places: None,
                keys: None,
                obstacle: None,
                reported: [Meter::default(); 2],
            }),
        })
    }

    /// Connections entered since start.
    pub(crate) fn accepted(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        let live = self.live();
        live.by_id.len() + live.offloaded.len()
    }

    /// Connections that have sockets.
    pub(crate) fn count_sockets(&self) -> usize {
        self.live().by_id.len()
    }

    /// All live connections, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Flow>> {
        let mut flows: Vec<_> = {
            let live = self.live();
            live.by_id.values().chain(live.offloaded.values()).cloned().collect()
        };
        flows.sort_unstable_by_key(|flow| flow.id);
        flows
    }

    /// The live connection with this id.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Flow>> {
        let live = self.live();
        live.by_id.get(&id).or_else(|| live.offloaded.get(&id)).cloned()
    }

    /// Gives an order. None: no live connection has this id.
    pub(crate) fn order(&self, id: u64, order: Order) -> Option<Arc<Flow>> {
        let live = self.live();
        if let Some(flow) = live.by_id.get(&id) {
            flow.order(order);
            return Some(Arc::clone(flow));
        }
        let flow = live.offloaded.get(&id)?;
        flow.order(order);
        self.commands.add(flow);
        Some(Arc::clone(flow))
    }

    /// From now on [`Self::wake_cookie`] finds the flow by the cookies of its sockets.
    pub(crate) fn know_places(&self, flow: &Flow, places: [Place; 2]) {
        flow.facts().places = Some(places);
        self.live().by_cookie.extend(places.map(|place| (place.cookie, flow.id)));
    }

    /// Rings the flow with this id, if it is still alive.
    pub(crate) fn wake(&self, id: u64) {
        if let Some(flow) = self.live().by_id.get(&id) {
            flow.wake.notify_one();
        }
    }

    /// Rings all flows.
    pub(crate) fn wake_all(&self) {
        self.wake_some(0, 1);
    }

    /// Rings those flows whose turn it is in `round`, if each has its turn once in `rounds`.
    pub(crate) fn wake_some(&self, round: u64, rounds: u64) {
        let rounds = rounds.max(1);
        let live = self.live();
        for flow in live.by_id.values().filter(|flow| flow.id % rounds == round % rounds) {
            flow.wake.notify_one();
        }
    }

    /// Rings the flow that the socket with this cookie belongs to, if it is still alive.
    pub(crate) fn wake_cookie(&self, cookie: u64) {
        let live = self.live();
        if let Some(flow) = live.by_cookie.get(&cookie).and_then(|id| live.by_id.get(id)) {
            flow.wake.notify_one();
        }
    }

    /// Returns once no connection has sockets.
    pub(crate) async fn none_left(&self) {
        self.until(|| self.count_sockets() == 0).await;
    }

    /// Returns once there is no connection, with sockets or without.
    pub(crate) async fn none_at_all(&self) {
        self.until(|| self.count() == 0).await;
    }

    async fn until(&self, is_reached: impl Fn() -> bool) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if is_reached() {
                return;
            }
            notified.await;
        }
    }

    /// The flow goes on without sockets, until [`Self::leave`].
    fn park(&self, flow: &Arc<Flow>) {
        let mut live = self.live();
        live.by_id.remove(&flow.id);
        live.offloaded.insert(flow.id, Arc::clone(flow));
        if flow.orders.left() {
            self.commands.add(flow);
        }
        if live.by_id.is_empty() {
            self.idle.notify_waiters();
        }
    }

    /// Has somebody look at what was ordered of a flow that was parked. Once more does no harm.
    pub(crate) fn remind(&self, flow: &Arc<Flow>) {
        if flow.orders.left() {
            self.commands.add(flow);
        }
    }

    /// A flow that was parked has sockets again, until the returned value is dropped. Its carrier looks at once at what was
    /// ordered meanwhile.
    pub(crate) fn enter_again(&self, flow: Arc<Flow>) -> Entry<'_> {
        let mut live = self.live();
        live.offloaded.remove(&flow.id);
        live.by_id.insert(flow.id, Arc::clone(&flow));
        drop(live);
        flow.wake.notify_one();
        Entry { flows: self, flow }
    }

    /// A flow that was parked is over, or not ours any more.
    pub(crate) fn leave_parked(&self, flow: &Flow) {
        let mut live = self.live();
        live.offloaded.remove(&flow.id);
        if live.offloaded.is_empty() {
            self.idle.notify_waiters();
        }
    }

    fn leave(&self, flow: &Flow) {
        let places = flow.facts().places;
        let mut live = self.live();
        live.by_id.remove(&flow.id);
        for place in places.into_iter().flatten() {
            live.by_cookie.remove(&place.cookie);
        }
        if live.by_id.is_empty() {
            self.idle.notify_waiters();
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the living.
pub(crate) struct Entry<'a> {
    flows: &'a Flows,
    pub(crate) flow: Arc<Flow>,
}

impl Entry<'_> {
    /// The flow goes on without sockets and without this entry.
    pub(crate) fn park(self) -> Arc<Flow> {
        self.flows.park(&self.flow);
        Arc::clone(&self.flow)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.flows.leave(&self.flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever takes errands may do so before the flow can be found where those are that have no sockets.
    #[tokio::test]
    async fn an_order_that_comes_while_a_flow_is_parked_is_told_until_it_is_there() {
        let flows = Flows::default();
        let entry = flows.enter("10.0.0.1:5000".parse().unwrap(), &Arc::from("tls"), Arc::default());
        let flow = entry.park();
        flows.remind(&flow);
        let ordered = flows.order(flow.id, Order::Kill).unwrap();
        assert_eq!(flows.commands.next().await.len(), 1, "none before there is an order");
        flows.remind(&ordered);
        assert_eq!(flows.commands.next().await[0].id, flow.id);
    }
}
