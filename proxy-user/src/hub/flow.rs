//! One connection, from accept to close.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::Key;
use proxy_common::abi::sockmap::Place;
use proxy_common::flow::{Meter, Reason};
use proxy_common::plan::Datapath;
use tokio::sync::Notify;

use super::meters::{Bytes, Meters};
use super::orders::{Order, Orders};
use super::snapshot::Snapshot;

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
    /// One that was just accepted.
    pub(super) fn new(id: u64, client: SocketAddr, listener: Arc<str>, config: Arc<Snapshot>) -> Self {
        Self {
            id,
            client,
            listener,
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
        }
    }

    /// Brings the byte counters up to what it has carried: each byte is counted once, however often this is called.
    pub(crate) fn count(&self, meters: &Meters, totals: Bytes) {
        let mut facts = self.facts();
        let Some(datapath) = facts.datapath else { return };
        let [up, down] = &mut facts.reported;
        let [total_up, total_down] = totals;
        let more = [up.advance(total_up), down.advance(total_down)];
        let route = Arc::clone(&facts.route);
        drop(facts);
        meters.add_bytes(&route, datapath, more);
    }

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

impl Flow {
    /// Has its carrier look at the order, wherever it is.
    pub(super) fn order(&self, order: Order) {
        self.orders.give(order);
        self.wake.notify_one();
    }

    /// Returns once the flow is to end: for those who have nothing else to wait for.
    pub(crate) async fn killed(&self) {
        while !self.orders.are_to_kill() {
            self.wake.notified().await;
        }
    }
}
