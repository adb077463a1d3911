//! The admin endpoint: HTTP on a loopback address, where it is read-only and names no client, and on a Unix socket.

mod exposition;
mod flows;
mod guard;
mod host;
mod kernel;
mod listen;
mod orders;
mod report;
mod serve;

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(crate) use listen::{open, serve};

use crate::control::guard::Started;
use crate::control::logs;
use crate::hub::{Hub, Phase};
use crate::kernel::Kernel;

/// What the endpoint reads.
pub(crate) struct Admin {
    hub: Arc<Hub>,
    kernel: Arc<Kernel>,
    guard: Started,
    registry: Registry,
}

impl Admin {
    pub(crate) fn new(hub: Arc<Hub>, kernel: Arc<Kernel>, guard: Started) -> Self {
        let mut registry = Registry::with_prefix("snisplice");
        hub.meters.register(&mut registry);
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The build that runs", Info::new(build.to_vec()));
        registry.register("log_dropped", "Log records dropped, since the log was not read", logs::dropped());
        registry.register_collector(Box::new(kernel::Readings {
            hub: Arc::clone(&hub),
            kernel: Arc::clone(&kernel),
        }));
        if let Some(Ok(guard)) = &guard {
            registry.register_collector(Box::new(guard::Readings(Arc::clone(guard))));
        }
        Self { hub, kernel, guard, registry }
    }
}

/// What is offered to every user of this host.
fn http_router(admin: &Arc<Admin>) -> Router {
    let flows = if admin.hub.config.current().admin.http_clients {
        get(async |State(admin): State<Arc<Admin>>| flows::list(&admin))
    } else {
        get(async || flows::refuse())
    };
    common_router()
        .route("/api/v1/flows", flows)
        .merge(guard::readable(admin.hub.config.current().admin.http_clients))
        .layer(from_fn_with_state(Arc::clone(admin), host::check))
        .with_state(Arc::clone(admin))
}

/// What is offered to those who may open the Unix socket.
fn socket_router(admin: Arc<Admin>) -> Router {
    common_router()
        .route("/api/v1/flows", get(async |State(admin): State<Arc<Admin>>| flows::list(&admin)))
        .merge(guard::readable(true))
        .merge(guard::writable())
        .merge(orders::writable())
        .with_state(admin)
}

fn common_router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(async |State(admin): State<Arc<Admin>>| Json(report::status(&admin))))
}

async fn index() -> &'static str {
    "snisplice\n\n/livez\n/readyz\n/metrics\n/api/v1/status\n/api/v1/flows\n/api/v1/guard\n"
}

/// Ready: listening, with room for more and with the datapaths that the configuration asks for, and not on the way out.
async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, Cow<'static, str>) {
    let why = match admin.hub.phases.now() {
        Phase::Running if admin.hub.connection_limit.is_full() => {
            Some("no room for more connections\n".into())
        }
        Phase::Running => admin.kernel.lacks(&admin.hub).map(Cow::from),
        Phase::Draining | Phase::Closing | Phase::Stopped => Some("draining\n".into()),
    };
    why.map_or((StatusCode::OK, "ready\n".into()), |why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    // Flows live for weeks: their bytes must not wait for their end to be counted.
    report::count_live_bytes(&admin);
    exposition::answer(&headers, &admin.registry)
}
