//! ONE connection, from accept to close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proxy_common::flow::{End, Reason};
use proxy_common::hello::Sni;
use tokio::net::TcpStream;

use super::connect::{self, Failed};
use super::peek::{self, Opening};
use super::refuse;
use crate::datapath::{Carried, Carriers, Outcome, Pair};
use crate::hub::snapshot::{Listener, Upstream};
use crate::hub::{Flow, HelloResult, Hub, Phase, Stage, Story};
use crate::sys;

/// Serves one accepted connection.
pub(super) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    listener: Arc<Listener>,
    carriers: Arc<Carriers>,
) {
    let hub = &carriers.hub;
    let _place = hub.room.take();
    let entry = hub.flows.enter(client, &listener.name);
    let mut way = Story::default();
    let carried = match travel(stream, &listener, &carriers, &entry.flow, &mut way).await {
        Ok(Outcome::Ended(carried)) => carried,
        Ok(Outcome::Left(departed)) => return departed.park(entry, way),
        Err(reason) => Carried { end: End { reason, side: reason.side() }, bytes: [0; 2] },
    };
    way.settle(hub, &entry.flow, carried.end, carried.bytes);
}

/// Err: the connection ended before it became a flow.
async fn travel(
    stream: TcpStream,
    listener: &Listener,
    carriers: &Carriers,
    flow: &Flow,
    way: &mut Story,
) -> Result<Outcome, Reason> {
    let hub = &carriers.hub;
    let stopping = hub.phases.reached(Phase::Closing);
    let (pair, upstream) = tokio::select! {
        result = establish(stream, listener, carriers, flow, way) => result?,
        () = stopping => return Err(Reason::Drain),
    };
    Ok(carriers.carry(flow, pair, upstream.datapath).await)
}

async fn establish(
    stream: TcpStream,
    listener: &Listener,
    carriers: &Carriers,
    flow: &Flow,
    way: &mut Story,
) -> Result<(Pair, Arc<Upstream>), Reason> {
    let hub = &carriers.hub;
    let (stream, number) = match listener.to {
        Some(number) => {
            flow.facts().route = format!("listener/{}", listener.name).into();
            (stream, number)
        }
        None => route(stream, hub, flow, way).await?,
    };
    let upstream = hub.snapshot.upstreams.get(number).ok_or(Reason::NoRoute)?;
    note_upstream(flow, &upstream.name);
    let begun = Instant::now();
    let connected = connect::connect(carriers, upstream, &stream, flow.id).await;
    way.connect = Some(begun.elapsed());
    match connected {
        Ok(server) => {
            note_server(flow, &server);
            Ok((Pair { client: stream, upstream: server }, Arc::clone(upstream)))
        }
        Err(failed) => {
            // Nothing was read, and nothing can be served: a reset lets the client try again at once.
            let _ = sys::reset_on_close(&stream, true);
            Err(match failed {
                Failed::Upstream { failure, error } => {
                    way.error = Some(error);
                    Reason::Connect(failure)
                }
                Failed::ClientGone => Reason::ClientGone,
            })
        }
    }
}

/// Waits for the hello and finds its route. Gives the stream back with the number of the upstream.
async fn route(
    stream: TcpStream,
    hub: &Hub,
    flow: &Flow,
    way: &mut Story,
) -> Result<(TcpStream, usize), Reason> {
    let begun = Instant::now();
    let opening = tokio::time::timeout(hub.snapshot.timeouts.hello, peek::opening(&stream)).await;
    way.hello = Some(begun.elapsed());
    let opening = match opening {
        Ok(Ok(opening)) => opening,
        Ok(Err(error)) => return Err(internal(flow, &error)),
        Err(_) => Opening::Unusable(HelloResult::Timeout),
    };
    let (result, name) = match &opening {
        Opening::Hello(hello) => match &hello.sni {
            Sni::Name(name) => (HelloResult::Found, Some(name)),
            Sni::Absent | Sni::IpLiteral(_) | Sni::Unusable => (HelloResult::NoName, None),
        },
        Opening::NotTls => (HelloResult::NotTls, None),
        Opening::Unusable(result) => (*result, None),
    };
    hub.meters.hello(result);
    way.opening = Some(result);
    if let Opening::Unusable(result) = opening {
        return Err(unusable(result));
    }
    flow.facts().sni = name.map(ToString::to_string);
    let Some(found) = hub.snapshot.routes.find(name, flow.client.ip()) else {
        if matches!(opening, Opening::Hello(_)) {
            refuse::unrecognized_name(stream).await;
        }
        return Err(Reason::NoRoute);
    };
    flow.facts().route = Arc::clone(&found.route.name);
    Ok((stream, found.route.upstream))
}

fn unusable(result: HelloResult) -> Reason {
    match result {
        HelloResult::TooLarge => Reason::HelloTooLarge,
        HelloResult::Timeout => Reason::HelloTimeout,
        HelloResult::Eof => Reason::HelloEof,
        HelloResult::Reset => Reason::HelloReset,
        HelloResult::Broken | HelloResult::Found | HelloResult::NoName | HelloResult::NotTls => {
            Reason::HelloBroken
        }
    }
}

fn note_upstream(flow: &Flow, upstream: &Arc<str>) {
    let mut facts = flow.facts();
    facts.stage = Stage::Connect;
    facts.upstream = Some(Arc::clone(upstream));
}

/// A server that has already gone again has no address any more: the datapath will see to that.
fn note_server(flow: &Flow, server: &TcpStream) {
    let mut facts = flow.facts();
    facts.server = server.peer_addr().ok();
    facts.upstream_local = server.local_addr().ok();
}

fn internal(flow: &Flow, error: &io::Error) -> Reason {
    tracing::warn!(flow = flow.id, %error, "connection closed: the system refused what it should not");
    Reason::Internal
}
