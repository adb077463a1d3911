//! The guard on the admin endpoint: to be read by all, to be changed on the Unix socket only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use crate::control::config;
use crate::control::guard::{Guard, GuardReport, Listed};

/// What may be read. The list names clients.
pub(super) fn readable(with_list: bool) -> Router<Arc<Admin>> {
    let whole = async move |State(admin): State<Arc<Admin>>| read(&admin, with_list);
    Router::new().route("/api/v1/guard", get(whole))
}

/// What may be done.
pub(super) fn writable() -> Router<Arc<Admin>> {
    Router::new()
        .route(
            "/api/v1/guard/ban",
            post(async |State(admin): State<Arc<Admin>>, Json(ban): Json<BanRequest>| {
                change(&admin, |guard| ban.run(guard))
            }),
        )
        .route(
            "/api/v1/guard/unban",
            post(async |State(admin): State<Arc<Admin>>, Json(lift): Json<LiftRequest>| {
                change(&admin, |guard| lift.run(guard))
            }),
        )
        .route("/api/v1/guard/reload", post(reload))
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    report: GuardReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Listed>>,
}

fn read(admin: &Admin, with_list: bool) -> Response {
    change(admin, |guard| {
        serde_json::to_value(Whole { report: guard.report(), list: with_list.then(|| guard.list()) })
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    })
}

/// What a request comes to.
type Outcome = Result<serde_json::Value, (StatusCode, String)>;

fn change(admin: &Admin, run: impl FnOnce(&Guard) -> Outcome) -> Response {
    respond(guard_of(admin).and_then(|guard| run(guard)))
}

fn guard_of(admin: &Admin) -> Result<&Arc<Guard>, (StatusCode, String)> {
    match &admin.guard {
        Some(Ok(guard)) => Ok(guard),
        Some(Err(reason)) => Err((StatusCode::CONFLICT, format!("there is no guard: {reason}"))),
        None => Err((StatusCode::CONFLICT, "the configuration has no [guard]".to_owned())),
    }
}

fn respond(outcome: Outcome) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err((code, error)) => (code, Json(json!({ "error": error }))).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BanRequest {
    net: String,
    /// None: until it is lifted.
    milliseconds: Option<u64>,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftRequest {
    net: String,
}

impl BanRequest {
    fn run(self, guard: &Guard) -> Outcome {
        let time = self.milliseconds.map(Duration::from_millis);
        let net = network(&self.net)?;
        let banned = guard.ban(net, time, self.force);
        banned.map_err(|refused| (StatusCode::CONFLICT, refused.to_string()))?;
        Ok(json!({ "banned": net.to_string(), "dry_run": guard.is_dry() }))
    }
}

fn network(text: &str) -> Result<IpNet, (StatusCode, String)> {
    config::network(text).map_err(|fault| (StatusCode::BAD_REQUEST, fault.to_string()))
}

impl LiftRequest {
    fn run(self, guard: &Guard) -> Outcome {
        let net = network(&self.net)?;
        match guard.unban(net) {
            Ok(true) => Ok(json!({ "lifted": net.to_string() })),
            Ok(false) => Err((
                StatusCode::NOT_FOUND,
                format!("there is no ban of {net}; run `snisplice guard list` for the list"),
            )),
            Err(refused) => Err((StatusCode::CONFLICT, refused.to_string())),
        }
    }
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    let outcome = match guard_of(&admin) {
        Ok(guard) => {
            Arc::clone(guard).reload().await.map_err(|error| (StatusCode::CONFLICT, error.to_string()))
        }
        Err(error) => Err(error),
    };
    respond(outcome.map(|networks| json!({ "networks": networks })))
}

/// Metrics of the guard.
pub(super) struct Readings(pub(super) Arc<Guard>);

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = self.0.report();
        let packets = report
            .packets
            .iter()
            .map(|line| ([("verdict", line.verdict), ("reason", line.reason)], line.count));
        counters(&mut encoder, ("guard_packets", "Packets that the guard has seen"), packets)?;
        let made = report.bans_made.iter().map(|line| ([("reason", line.reason)], line.count));
        counters(&mut encoder, ("guard_bans_made", "Bans that were made"), made)?;
        let refused = report.bans_refused.iter().map(|line| ([("reason", line.reason)], line.count));
        counters(
            &mut encoder,
            ("guard_bans_refused", "Bans that the policy wanted and that were not made"),
            refused,
        )?;
        let attached = report.interfaces.iter().flat_map(|interface| {
            let one = |mode| {
                let labels = [("interface", interface.name.as_str()), ("mode", mode)];
                (labels, u64::from(interface.mode == Some(mode)))
            };
            ["native", "generic"].map(one)
        });
        gauges(&mut encoder, ("guard_attached", "1 where the guard is attached, in this mode"), attached)?;
        let count = |count: usize| count as u64;
        let lists = [
            ("allow", count(report.allow)),
            ("deny", count(report.deny)),
            ("deny_file", count(report.deny_file)),
        ];
        let lists = lists.map(|(list, count)| ([("list", list)], count));
        gauges(&mut encoder, ("guard_networks", "Networks on the lists"), lists.into_iter())?;
        let single = [
            ("guard_bans", "Bans that are in force", count(report.bans)),
            ("guard_sources", "Sources whose rate is watched", report.sources),
            (
                "guard_sources_limit",
                "The most sources whose rate can be watched",
                u64::from(report.sources_limit),
            ),
            ("guard_dry_run", "1 where nothing is dropped", u64::from(report.dry_run)),
        ];
        for (name, help, value) in single {
            let gauge = gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: impl Iterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in samples {
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: impl Iterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        gauge(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
