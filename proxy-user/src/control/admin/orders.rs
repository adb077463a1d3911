//! Orders for single flows: on the Unix socket only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use proxy_common::plan::Datapath;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::hub::{Flow, Hub, Order};

/// An answer waits so long for an order to be carried out: less than the one who asks does.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What may be done.
pub(super) fn writable() -> Router<Arc<Admin>> {
    // The last two are what the command line of earlier versions asks for.
    let verbs = [
        ("kill", Order::Kill),
        ("offload", Order::Offload),
        ("restore", Order::Restore),
        ("promote", Order::Offload),
        ("demote", Order::Restore),
    ];
    verbs.into_iter().fold(Router::new(), |router, (verb, order)| {
        let give = post(async move |admin, ids| carry_out(admin, ids, order).await);
        router.route(&format!("/api/v1/flows/{verb}"), give)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    ids: Vec<u64>,
}

#[derive(Serialize)]
struct Outcome {
    done: Vec<u64>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    id: u64,
    error: String,
}

async fn carry_out(State(admin): State<Arc<Admin>>, Json(ids): Json<Ids>, order: Order) -> Response {
    let hub = &admin.hub;
    let given: Vec<_> = ids.ids.iter().map(|id| (*id, give(hub, *id, order))).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut outcome = Outcome { done: Vec::new(), failed: Vec::new() };
    for (id, given) in given {
        let result = match given {
            Ok(flow) => wait(hub, &flow, order, deadline).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => outcome.done.push(id),
            Err(error) => outcome.failed.push(Failed { id, error }),
        }
    }
    let code = if outcome.failed.is_empty() { StatusCode::OK } else { StatusCode::CONFLICT };
    (code, Json(outcome)).into_response()
}

/// Err: why it cannot be carried out.
fn give(hub: &Hub, id: u64, order: Order) -> Result<Arc<Flow>, String> {
    let unknown = || format!("no live connection with id {id}; run `snisplice flows` for the list");
    let flow = hub.flows.find(id).ok_or_else(unknown)?;
    if order != Order::Kill {
        if !may_leave(&flow) {
            return Err(format!(
                "connection {id} has its sockets and cannot be offloaded: its upstream has neither datapath = \"packet\" nor \"auto\" with a \
                 [packet] section"
            ));
        }
        let mut facts = flow.facts();
        if let Some(datapath @ (Datapath::Sockmap | Datapath::Local)) = facts.datapath {
            let why = facts.obstacle.as_deref().unwrap_or("it was spliced before it could be offloaded");
            return Err(format!(
                "connection {id} is forwarded by {} and cannot be offloaded: {why}",
                datapath.name()
            ));
        }
        facts.obstacle = None;
    }
    hub.flows.order(id, order).ok_or_else(unknown)
}

/// Whether it is a flow that may leave its sockets, or has left them.
fn may_leave(flow: &Flow) -> bool {
    let facts = flow.facts();
    let named = |name: &Arc<str>| {
        let upstream = flow.config.upstreams.iter().find(|upstream| upstream.name == *name);
        upstream.is_some_and(|upstream| flow.config.may_leave(upstream.datapath))
    };
    // Where an earlier daemon had it, its upstream may have no name any more.
    facts.keys.is_some() || flow.had_other_sockets() || facts.upstream.as_ref().is_some_and(named)
}

/// Returns when the order is carried out. Err: why it is not, or not yet.
async fn wait(hub: &Hub, flow: &Flow, order: Order, deadline: Instant) -> Result<(), String> {
    let id = flow.id;
    loop {
        let is_alive = hub.flows.find(id).is_some();
        let (is_without, obstacle) = {
            let facts = flow.facts();
            (facts.datapath == Some(Datapath::Packet), facts.obstacle.clone())
        };
        match order {
            Order::Kill if !is_alive => {
                return flow
                    .untold
                    .get()
                    .map_or(Ok(()), |why| Err(format!("connection {id} is closed here, but {why}")));
            }
            Order::Offload | Order::Restore if !is_alive => return Err(format!("connection {id} has ended")),
            Order::Offload if is_without => return Ok(()),
            Order::Restore if !is_without => return Ok(()),
            _ => {}
        }
        if let Some(obstacle) = obstacle {
            let stays = if is_without { "stays offloaded" } else { "is not offloaded" };
            return Err(format!("connection {id} {stays}: {obstacle}"));
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "the command for connection {id} is not finished yet; run `snisplice flows` to see the connection"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
