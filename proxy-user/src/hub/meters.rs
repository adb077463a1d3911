//! Counters, gauges and histograms. Labels come from the configuration and from closed sets only: a name that a client
//! chose would let it grow our memory.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proxy_common::flow::{ConnectFailure, Reason};
use proxy_common::plan::{Datapath, Fallback};

/// A name from the configuration, shared rather than copied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name(Arc<str>);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        (&*self.0).encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Carried {
    route: Name,
    datapath: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseReason {
    route: Name,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    route: Name,
    direction: &'static str,
    datapath: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hello {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    upstream: Name,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Server {
    upstream: Name,
    server: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Moved {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FellBack {
    from: &'static str,
    reason: &'static str,
}

/// Bytes of one flow, client to upstream first.
pub(crate) type Bytes = [u64; 2];

/// A connection that has ended.
pub(crate) struct Closed<'a> {
    pub(crate) route: &'a Arc<str>,
    pub(crate) reason: Reason,
}

/// All meters that the front writes.
pub(crate) struct Meters {
    accepted: Family<Listener, Counter>,
    accept_errors: Family<Listener, Counter>,
    turned_away: Family<Listener, Counter>,
    active: Family<Carried, Gauge<i64, AtomicI64>>,
    closed: Family<CloseReason, Counter>,
    bytes: Family<Direction, Counter>,
    hello: Family<Hello, Counter>,
    connect_seconds: Histogram,
    connect_failures: Family<Failure, Counter>,
    servers_up: Family<Server, Gauge<i64, AtomicI64>>,
    fallbacks: Family<FellBack, Counter>,
    moves: Family<Moved, Counter>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
        Self {
            accepted: Family::default(),
            accept_errors: Family::default(),
            turned_away: Family::default(),
            active: Family::default(),
            closed: Family::default(),
            bytes: Family::default(),
            hello: Family::default(),
            connect_seconds: Histogram::new(buckets),
            connect_failures: Family::default(),
            servers_up: Family::default(),
            fallbacks: Family::default(),
            moves: Family::default(),
        }
    }

    /// Series of a listener exist from its start: an alert on a rate needs its zero.
    pub(crate) fn know_listener(&self, listener: &Arc<str>) {
        let labels = Listener { listener: Name(Arc::clone(listener)) };
        drop(self.accepted.get_or_create(&labels));
        drop(self.accept_errors.get_or_create(&labels));
        drop(self.turned_away.get_or_create(&labels));
    }

    /// Enters them into `registry`. They are shared with it.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("connections_accepted", "Connections accepted", self.accepted.clone());
        registry.register("accept_errors", "Failed accepts", self.accept_errors.clone());
        registry.register(
            "connections_turned_away",
            "Connections reset because their source had source_connections already",
            self.turned_away.clone(),
        );
        registry.register("connections_active", "Established connections", self.active.clone());
        registry.register("connections_closed", "Connections that ended", self.closed.clone());
        registry.register("bytes", "Bytes forwarded; in = client to upstream", self.bytes.clone());
        registry.register("clienthello", "Outcomes of waiting for a hello", self.hello.clone());
        registry.register(
            "upstream_connect_seconds",
            "Time to connect to an upstream server",
            self.connect_seconds.clone(),
        );
        registry.register(
            "upstream_connect_failures",
            "Failed attempts to connect to an upstream server",
            self.connect_failures.clone(),
        );
        registry.register(
            "upstream_server_up",
            "1 if the last attempt to connect to this server succeeded, 0 if it failed",
            self.servers_up.clone(),
        );
        registry.register(
            "datapath_fallbacks",
            "Connections that used another datapath instead",
            self.fallbacks.clone(),
        );
        registry.register("packet_moves", "Connections that were offloaded or restored", self.moves.clone());
    }

    pub(crate) fn accepted(&self, listener: &Arc<str>) {
        self.accepted.get_or_create(&Listener { listener: Name(Arc::clone(listener)) }).inc();
    }

    pub(crate) fn accept_error(&self, listener: &Arc<str>) {
        self.accept_errors.get_or_create(&Listener { listener: Name(Arc::clone(listener)) }).inc();
    }

    pub(crate) fn turned_away(&self, listener: &Arc<str>) {
        self.turned_away.get_or_create(&Listener { listener: Name(Arc::clone(listener)) }).inc();
    }

    /// `result`: a label of what a connection opened with, or of why it cannot be routed.
    pub(crate) fn hello(&self, result: &'static str) {
        self.hello.get_or_create(&Hello { result }).inc();
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.connect_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn connect_failed(&self, upstream: &Arc<str>, failure: ConnectFailure) {
        let labels = Failure { upstream: Name(Arc::clone(upstream)), reason: failure.label() };
        self.connect_failures.get_or_create(&labels).inc();
    }

    /// The last attempt to connect to this server has succeeded or failed.
    pub(super) fn server_up(&self, upstream: &Arc<str>, server: &Arc<str>, is_up: bool) {
        let labels = Server { upstream: Name(Arc::clone(upstream)), server: Name(Arc::clone(server)) };
        self.servers_up.get_or_create(&labels).set(i64::from(is_up));
    }

    pub(crate) fn fell_back(&self, from: Datapath, reason: Fallback) {
        self.fallbacks.get_or_create(&FellBack { from: from.name(), reason: reason.label() }).inc();
    }

    /// A flow has left its sockets, has got some again, or was to and has not.
    pub(crate) fn moved(&self, what: &'static str) {
        self.moves.get_or_create(&Moved { what }).inc();
    }

    /// Counts an established flow as active until the returned value is dropped.
    pub(crate) fn active(&self, route: &Arc<str>, datapath: Datapath) -> Active {
        let labels = Carried { route: Name(Arc::clone(route)), datapath: datapath.name() };
        let gauge = self.active.get_or_create_owned(&labels);
        gauge.inc();
        Active(gauge)
    }

    pub(crate) fn closed(&self, closed: &Closed<'_>) {
        let labels = CloseReason { route: Name(Arc::clone(closed.route)), reason: closed.reason.label() };
        self.closed.get_or_create(&labels).inc();
    }

    /// Counts bytes of a connection, client to upstream first.
    pub(super) fn add_bytes(&self, route: &Arc<str>, datapath: Datapath, bytes: Bytes) {
        for (bytes, direction) in bytes.into_iter().zip(["in", "out"]) {
            if bytes > 0 {
                let route = Name(Arc::clone(route));
                let labels = Direction { route, direction, datapath: datapath.name() };
                self.bytes.get_or_create(&labels).inc_by(bytes);
            }
        }
    }
}

/// See [`Meters::active`].
pub(crate) struct Active(Gauge<i64, AtomicI64>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
