//! The admin endpoint: HTTP on a loopback address, where it is read-only, and on a Unix socket.

mod guard;
mod kernel;
mod listen;
mod orders;
mod report;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(crate) use listen::{open, serve};
pub(crate) use report::Kernel;

use crate::control::guard::Started;
use crate::control::logs;
use crate::hub::{Hub, Phase};

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

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(async |State(admin): State<Arc<Admin>>| Json(report::status(&admin))))
        .route("/api/v1/flows", get(async |State(admin): State<Arc<Admin>>| Json(report::flows(&admin))))
        .merge(guard::readable())
        .with_state(admin)
}

/// What is offered to those who may open the Unix socket.
fn full_router(admin: Arc<Admin>) -> Router {
    let writable = guard::writable().merge(orders::writable());
    router(Arc::clone(&admin)).merge(writable.with_state(admin))
}

async fn index() -> &'static str {
    "snisplice\n\n/livez\n/readyz\n/metrics\n/api/v1/status\n/api/v1/flows\n/api/v1/guard\n"
}

/// Ready: listening, with room for more, and not on the way out.
async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    match admin.hub.phases.now() {
        Phase::Running if admin.hub.room.is_full() => {
            (StatusCode::SERVICE_UNAVAILABLE, "no room for more connections\n")
        }
        Phase::Running => (StatusCode::OK, "ready\n"),
        Phase::Draining | Phase::Closing | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    // Flows live for weeks: their bytes must not wait for their end to be counted.
    report::count_live_bytes(&admin);
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
