//! The connections that are alive, from accept to close.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy_common::abi::sockmap::Place;
use tokio::sync::Notify;

use super::flow::Flow;
use super::orders::Order;
use super::snapshot::Snapshot;

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
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Flow::new(id, client, Arc::clone(listener), config))
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
        if flow.orders.offloaded() {
            self.commands.add(flow);
        }
        if live.by_id.is_empty() {
            self.idle.notify_waiters();
        }
    }

    /// Has somebody look at what was ordered of a flow that was parked. Once more does no harm.
    pub(crate) fn remind(&self, flow: &Arc<Flow>) {
        if flow.orders.offloaded() {
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

/// Flows without sockets that something was ordered of: nobody waits for each of them.
#[derive(Default)]
pub(crate) struct Commands {
    flows: Mutex<Vec<Arc<Flow>>>,
    bell: Notify,
}

impl Commands {
    fn add(&self, flow: &Arc<Flow>) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(flow));
        self.bell.notify_one();
    }

    /// Returns all connections with an order, once there is one.
    pub(crate) async fn next(&self) -> Vec<Arc<Flow>> {
        loop {
            let flows = std::mem::take(&mut *self.flows.lock().unwrap_or_else(PoisonError::into_inner));
            if !flows.is_empty() {
                return flows;
            }
            self.bell.notified().await;
        }
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
