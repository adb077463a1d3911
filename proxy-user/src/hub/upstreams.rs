//! Servers of upstreams: what is known of each, for the log, the status and the metrics. It outlives the snapshots that
//! name the server.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use proxy_common::flow::ConnectFailure;
use proxy_common::upstream::{ServerHealth, ServerNews, ServerState};

use super::Meters;
use super::server::Server;

/// The endpoints of all snapshots in use. Equal servers of upstreams with equal names are one endpoint.
#[derive(Default)]
pub(crate) struct UpstreamRegistry {
    endpoints: Mutex<HashMap<Key, Weak<Endpoint>>>,
}

/// Name of the upstream, and the server as it is configured.
type Key = (Arc<str>, Server);

impl UpstreamRegistry {
    /// The endpoint of a server: with what is known of it already, if a snapshot has it.
    pub(crate) fn endpoint(&self, upstream: &Arc<str>, server: Server) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints();
        let key = (Arc::clone(upstream), server);
        if let Some(known) = endpoints.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let endpoint = Arc::new(Endpoint::new(Arc::clone(upstream), key.1.clone()));
        endpoints.insert(key, Arc::downgrade(&endpoint));
        endpoint
    }

    /// Forgets the endpoints that no snapshot and no connection has any more. Looks at each of them: to be called once for a
    /// configuration.
    pub(crate) fn forget_unused(&self) {
        self.endpoints().retain(|_, endpoint| endpoint.strong_count() > 0);
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<Key, Weak<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One server of one upstream.
pub(crate) struct Endpoint {
    upstream: Arc<str>,
    server: Server,
    /// As it is written in the configuration.
    name: Arc<str>,
    since: Instant,
    /// Read for each connection, so that nothing is locked as long as all is well.
    is_up: AtomicBool,
    /// Connections to it.
    active: AtomicU64,
    known: Mutex<Known>,
}

struct Known {
    health: ServerHealth,
    last_error: Option<(ConnectFailure, String)>,
}

/// What is known of one server.
pub(crate) struct EndpointReport {
    pub(crate) server: Arc<str>,
    pub(crate) state: ServerState,
    /// For so long.
    pub(crate) since: Duration,
    /// Connections that it has now.
    pub(crate) active: u64,
    /// Attempts that have failed.
    pub(crate) failures: u64,
    pub(crate) last_error: Option<(ConnectFailure, String)>,
}

impl Endpoint {
    fn new(upstream: Arc<str>, server: Server) -> Self {
        Self {
            upstream,
            name: server.to_string().into(),
            server,
            since: Instant::now(),
            is_up: AtomicBool::new(false),
            active: AtomicU64::new(0),
            known: Mutex::new(Known { health: ServerHealth::new(Duration::ZERO), last_error: None }),
        }
    }

    /// Where to connect to.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// It has accepted a connection, which counts until the returned value is dropped.
    pub(crate) fn accepted(self: &Arc<Self>, meters: &Meters) -> EndpointUse {
        if !self.is_up.load(Ordering::Relaxed) {
            self.note_up(meters);
        }
        self.active.fetch_add(1, Ordering::Relaxed);
        EndpointUse(Arc::clone(self))
    }

    fn note_up(&self, meters: &Meters) {
        let news = {
            let mut known = self.known();
            self.is_up.store(true, Ordering::Relaxed);
            meters.server_up(&self.upstream, &self.name, true);
            known.health.accepted(self.since.elapsed())
        };
        if let Some(ServerNews::Up(after)) = news {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(upstream = %self.upstream, server = %self.name, after_ms, "a server accepts connections again");
        }
    }

    /// An attempt to connect to it has failed.
    pub(crate) fn failed(&self, meters: &Meters, failure: ConnectFailure, error: &std::io::Error) {
        let news = {
            let mut known = self.known();
            self.is_up.store(false, Ordering::Relaxed);
            meters.server_up(&self.upstream, &self.name, false);
            known.last_error = Some((failure, error.to_string()));
            known.health.failed(self.since.elapsed())
        };
        if news == Some(ServerNews::Down) {
            tracing::warn!(
                upstream = %self.upstream, server = %self.name, reason = failure.label(), %error,
                "a server does not accept connections: see whether the service runs, and whether a firewall is in the way"
            );
        }
    }

    /// What is known of it.
    pub(crate) fn report(&self) -> EndpointReport {
        let known = self.known();
        EndpointReport {
            server: Arc::clone(&self.name),
            state: known.health.state(),
            since: self.since.elapsed().saturating_sub(known.health.since()),
            active: self.active.load(Ordering::Relaxed),
            failures: known.health.failures(),
            last_error: known.last_error.clone(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is configured, not what is known.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.server, f)
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        (&self.upstream, &self.server) == (&other.upstream, &other.server)
    }
}

/// A connection counts for its server as long as this lives.
pub(crate) struct EndpointUse(Arc<Endpoint>);

impl Drop for EndpointUse {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Server {
        Server::Address(([10, 0, 0, 1], port).into())
    }

    #[test]
    fn a_server_that_stays_keeps_what_is_known_of_it() {
        let (registry, meters) = (UpstreamRegistry::default(), Meters::new());
        let web: Arc<str> = "web".into();
        let old = registry.endpoint(&web, server(443));
        old.failed(&meters, ConnectFailure::Refused, &std::io::ErrorKind::ConnectionRefused.into());
        let (new, other) = (registry.endpoint(&web, server(443)), registry.endpoint(&web, server(444)));
        assert!(Arc::ptr_eq(&old, &new) && new != other);
        assert_eq!((new.report().failures, other.report().failures), (1, 0));
        drop((old, new));
        assert_eq!(registry.endpoint(&web, server(443)).report().failures, 0, "no snapshot had it any more");
    }

    #[test]
    fn a_connection_counts_as_long_as_it_lives() {
        let (registry, meters) = (UpstreamRegistry::default(), Meters::new());
        let endpoint = registry.endpoint(&"web".into(), server(443));
        let uses = [endpoint.accepted(&meters), endpoint.accepted(&meters)];
        assert_eq!((endpoint.report().active, endpoint.report().state), (2, ServerState::Up));
        drop(uses);
        assert_eq!(endpoint.report().active, 0);
    }
}
