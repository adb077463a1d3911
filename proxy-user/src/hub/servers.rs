//! Which servers accept connections, as far as attempts to connect to them have shown: for the log, the status, the metrics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::flow::{ConnectFailure, ServerHealth, ServerNews, ServerState};

use super::Meters;
use super::snapshot::Upstream;

/// The servers of all upstreams, as they are written in the configuration.
pub(crate) struct Servers {
    started: Instant,
    /// By number of the upstream, and of the server in it.
    all: Vec<Vec<Server>>,
}

struct Server {
    upstream: Arc<str>,
    name: Arc<str>,
    /// Read for each connection, so that nothing is locked as long as all is well.
    is_up: AtomicBool,
    known: Mutex<Known>,
}

struct Known {
    health: ServerHealth,
    last_error: Option<(ConnectFailure, String)>,
}

/// What is known of one server.
pub(crate) struct ServerReport {
    pub(crate) server: Arc<str>,
    pub(crate) state: ServerState,
    /// For so long.
    pub(crate) since: Duration,
    /// Attempts that have failed.
    pub(crate) failures: u64,
    pub(crate) last_error: Option<(ConnectFailure, String)>,
}

impl Servers {
    pub(super) fn new(upstreams: &[Arc<Upstream>]) -> Self {
        let server = |upstream: &Arc<Upstream>, name: String| Server {
            upstream: Arc::clone(&upstream.name),
            name: name.into(),
            is_up: AtomicBool::new(false),
            known: Mutex::new(Known { health: ServerHealth::new(Duration::ZERO), last_error: None }),
        };
        let of = |upstream: &Arc<Upstream>| {
            upstream.servers.iter().map(|one| server(upstream, one.to_string())).collect()
        };
        Self { started: Instant::now(), all: upstreams.iter().map(of).collect() }
    }

    /// This server of this upstream has accepted a connection.
    pub(crate) fn accepted(&self, meters: &Meters, upstream: usize, server: usize) {
        let Some(server) = self.get(upstream, server) else { return };
        if server.is_up.load(Ordering::Relaxed) {
            return;
        }
        let news = {
            let mut known = server.known();
            server.is_up.store(true, Ordering::Relaxed);
            meters.server_up(&server.upstream, &server.name, true);
            known.health.accepted(self.started.elapsed())
        };
        if let Some(ServerNews::Up(after)) = news {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(upstream = %server.upstream, server = %server.name, after_ms, "a server accepts connections again");
        }
    }

    /// An attempt to connect to it has failed.
    pub(crate) fn failed(
        &self,
        meters: &Meters,
        (upstream, server): (usize, usize),
        failure: ConnectFailure,
        error: &std::io::Error,
    ) {
        let Some(server) = self.get(upstream, server) else { return };
        let news = {
            let mut known = server.known();
            server.is_up.store(false, Ordering::Relaxed);
            meters.server_up(&server.upstream, &server.name, false);
            known.last_error = Some((failure, error.to_string()));
            known.health.failed(self.started.elapsed())
        };
        if news == Some(ServerNews::Down) {
            tracing::warn!(
                upstream = %server.upstream, server = %server.name, reason = failure.label(), %error,
                "a server does not accept connections: see whether the service runs, and whether a firewall is in the way"
            );
        }
    }

    /// What is known of the servers of this upstream.
    pub(crate) fn report(&self, upstream: usize) -> Vec<ServerReport> {
        let now = self.started.elapsed();
        let report = |server: &Server| {
            let known = server.known();
            ServerReport {
                server: Arc::clone(&server.name),
                state: known.health.state(),
                since: now.saturating_sub(known.health.since()),
                failures: known.health.failures(),
                last_error: known.last_error.clone(),
            }
        };
        self.all.get(upstream).into_iter().flatten().map(report).collect()
    }

    fn get(&self, upstream: usize, server: usize) -> Option<&Server> {
        self.all.get(upstream)?.get(server)
    }
}

impl Server {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
