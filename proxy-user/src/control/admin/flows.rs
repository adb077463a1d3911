//! The list of live connections. There may be a million: it is made piece by piece, as fast as the client reads it, so that neither the
//! thread nor the memory of the daemon is taken by whoever asks for it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use proxy_common::plan::Datapath;
use serde::Serialize;

use super::Admin;
use super::report::{carried, rested};
use crate::hub::Flow;
use crate::kernel::Kernel;

/// Connections in one piece of the answer.
const PIECE: usize = 64;

#[derive(Serialize)]
struct FlowStatus {
    id: u64,
    client: String,
    listener: String,
    sni: Option<Box<str>>,
    route: String,
    upstream: Option<String>,
    server: Option<String>,
    upstream_local: Option<String>,
    datapath: Option<&'static str>,
    phase: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    age_seconds: u64,
    idle_seconds: u64,
    /// Why it keeps its sockets, or cannot get any, as far as that was tried.
    obstacle: Option<Cow<'static, str>>,
}

/// `/api/v1/flows`
pub(super) fn list(admin: &Arc<Admin>) -> Response {
    let flows = admin.hub.flows.list();
    let list = List { admin: Arc::clone(admin), flows, at: 0 };
    let body = if list.flows.len() <= PIECE { Body::from(list.whole()) } else { Body::new(list) };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// `/api/v1/flows` where clients are not to be named.
pub(super) fn refuse() -> (StatusCode, &'static str) {
    (
        StatusCode::FORBIDDEN,
        "the list names clients and is served on the Unix socket only: run `snisplice flows`, or set http_clients = true in [admin]\n",
    )
}

/// The connections from number `at` on are still to be listed.
struct List {
    admin: Arc<Admin>,
    flows: Vec<Arc<Flow>>,
    at: usize,
}

impl List {
    fn whole(mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while let Some(mut piece) = self.piece() {
            text.append(&mut piece);
        }
        text
    }

    /// The next piece of the JSON. None: it is complete.
    fn piece(&mut self) -> Option<Vec<u8>> {
        if self.at > self.flows.len() {
            return None;
        }
        let mut text = if self.at == 0 { b"{\"flows\":[".to_vec() } else { Vec::new() };
        let end = (self.at + PIECE).min(self.flows.len());
        let flows = self.flows.get(self.at..end).unwrap_or_default();
        for (number, flow) in (self.at..).zip(flows) {
            if number > 0 {
                text.push(b',');
            }
            // To memory, and without maps: it cannot fail.
            let _ = serde_json::to_writer(&mut text, &flow_status(flow, &self.admin.kernel));
        }
        self.at = end;
        if end == self.flows.len() {
            text.extend_from_slice(b"]}");
            self.at = end + 1;
        }
        Some(text)
    }
}

impl http_body::Body for List {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

fn flow_status(flow: &Flow, kernel: &Kernel) -> FlowStatus {
    let ([bytes_in, bytes_out], rested) = (carried(kernel, flow), rested(kernel, flow));
    let facts = flow.facts();
    FlowStatus {
        id: flow.id,
        client: flow.client.to_string(),
        listener: flow.listener.to_string(),
        sni: facts.sni.clone(),
        route: facts.route.to_string(),
        upstream: facts.upstream.as_deref().map(str::to_owned),
        server: facts.server.map(|address| address.to_string()),
        upstream_local: facts.upstream_local.map(|address| address.to_string()),
        datapath: facts.datapath.map(Datapath::name),
        phase: facts.stage.name(),
        bytes_in,
        bytes_out,
        age_seconds: flow.accepted.elapsed().as_secs(),
        idle_seconds: rested.as_secs(),
        obstacle: facts.obstacle.clone(),
    }
}
