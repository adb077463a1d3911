//! Orders for single flows: on the Unix socket only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::hub::{Flow, Flows, Order};

/// An answer waits so long for an order to be carried out: less than the one who asks does.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What may be done.
pub(super) fn writable() -> Router<Arc<Admin>> {
    let path = |name: &str| format!("/api/v1/flows/{name}");
    Router::new().route(&path("kill"), post(async |admin, ids| carry_out(admin, ids, Order::Kill).await))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    ids: Vec<u64>,
}

#[derive(Serialize)]
struct Result {
    done: Vec<u64>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    id: u64,
    error: String,
}

async fn carry_out(State(admin): State<Arc<Admin>>, Json(ids): Json<Ids>, order: Order) -> Response {
    let flows = &admin.hub.flows;
    let given: Vec<_> = ids.ids.iter().map(|id| (*id, give(flows, *id, order))).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut result = Result { done: Vec::new(), failed: Vec::new() };
    for (id, given) in given {
        let outcome = match given {
            Ok(flow) => wait(flows, &flow, order, deadline).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => result.done.push(id),
            Err(error) => result.failed.push(Failed { id, error }),
        }
    }
    let code = if result.failed.is_empty() { StatusCode::OK } else { StatusCode::CONFLICT };
    (code, Json(result)).into_response()
}

/// Err: why it cannot be carried out.
fn give(flows: &Flows, id: u64, order: Order) -> std::result::Result<Arc<Flow>, String> {
    flows.order(id, order).ok_or_else(|| {
        format!("there is no live connection {id}; `snisplice flows` has those that there are")
    })
}

/// Returns when the order is carried out. Err: it is not, or not yet.
async fn wait(
    flows: &Flows,
    flow: &Flow,
    order: Order,
    deadline: Instant,
) -> std::result::Result<(), String> {
    loop {
        match standing(flows, flow, order) {
            Standing::Done => return Ok(()),
            Standing::Failed(why) => return Err(why),
            Standing::Waiting if Instant::now() >= deadline => {
                return Err(format!("connection {} is not there yet", flow.id));
            }
            Standing::Waiting => tokio::time::sleep(PAUSE).await,
        }
    }
}

enum Standing {
    Done,
    Waiting,
    Failed(String),
}

fn standing(flows: &Flows, flow: &Flow, order: Order) -> Standing {
    let is_alive = flows.find(flow.id).is_some();
    match order {
        Order::Kill if is_alive => Standing::Waiting,
        Order::Kill => Standing::Done,
        Order::Promote | Order::Demote => Standing::Failed(String::new()),
    }
}
