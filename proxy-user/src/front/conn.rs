//! ONE connection, from accept to close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proxy_common::flow::{End, Reason, Side};
use proxy_common::guard::Offence;
use proxy_common::hello::{ClientHello, HelloFailure, Opening, Sni};
use proxy_common::plan::{Choice, Datapath};
use tokio::net::TcpStream;

use super::connect::{self, Connected, Failed, Wanted};
use super::peek;
use super::refuse;
use crate::datapath::{Carriers, Outcome, Pair};
use crate::hub::snapshot::{Listener, Upstream};
use crate::hub::{AccessRecord, Dialed, Flow, Held, Hub, LogThrottle, Newcomer, Phase, Stage, Under, millis};
use crate::sys;

/// Serves one accepted connection in a task of its own.
pub(super) fn start(
    stream: TcpStream,
    client: SocketAddr,
    under: Under,
    carriers: &Arc<Carriers>,
    held: Held,
) {
    tokio::spawn(serve(stream, client, under, Arc::clone(carriers), held));
}

/// The same for one that another worker has accepted.
pub(super) fn start_newcomer(newcomer: Newcomer, carriers: &Arc<Carriers>) {
    let Newcomer { stream, client, under, held } = newcomer;
    match TcpStream::from_std(stream) {
        Ok(stream) => start(stream, client, under, carriers, held),
        Err(error) => {
            carriers.hub.meters.accept_error(&under.listener.name);
            tracing::error!(%error, "a new connection cannot enter the runtime");
        }
    }
}

/// Gives back what the connection held once it is over.
async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    Under { listener, config }: Under,
    carriers: Arc<Carriers>,
    held: Held,
) {
    let hub = &carriers.hub;
    let entry = hub.flows.enter(client, &listener.name, config);
    let mut record = AccessRecord { source_permit: held.source_permit, ..AccessRecord::default() };
    match travel(stream, &listener, &carriers, &entry.flow, &mut record).await {
        Ok(Outcome::Ended(carried)) => record.settle(hub, &entry.flow, carried.end, carried.bytes),
        Ok(Outcome::Left(departed)) => departed.park(hub, entry, record),
        Err(reason) => record.settle(hub, &entry.flow, End { reason, side: reason.side() }, [0; 2]),
    }
    drop((held.seat, held.permit));
}

/// Err: the connection ended before it became a flow.
async fn travel(
    stream: TcpStream,
    listener: &Listener,
    carriers: &Carriers,
    flow: &Flow,
    record: &mut AccessRecord,
) -> Result<Outcome, Reason> {
    let hub = &carriers.hub;
    refuse::our_own(&stream, flow, hub, record)?;
    let stopping = hub.phases.reached(Phase::Closing);
    // Dropped after the sockets are closed.
    let (dialed, pair, upstream) = tokio::select! {
        // Boxed: what follows lasts much longer, and needs less room.
        result = Box::pin(establish(stream, listener, carriers, flow, record)) => result?,
        () = stopping => return Err(Reason::Drain),
    };
    let is_protected = flow.config.guard.as_ref().is_some_and(|guard| guard.protects(&upstream.name));
    let sources = hub.sources.get();
    record.established = sources.map(|sources| sources.established(flow.client.ip(), is_protected));
    let outcome = carriers.carry(flow, pair, upstream.datapath).await;
    drop(dialed);
    Ok(outcome)
}

async fn establish<'a>(
    stream: TcpStream,
    listener: &'a Listener,
    carriers: &'a Carriers,
    flow: &'a Flow,
    record: &mut AccessRecord,
) -> Result<(Dialed<'a>, Pair, &'a Upstream), Reason> {
    let (stream, upstream) = match &listener.to {
        Some(upstream) => {
            flow.facts().route = format!("listener/{}", listener.name).into();
            (stream, &**upstream)
        }
        None => route(stream, &carriers.hub, flow, record).await?,
    };
    note_upstream(flow, &upstream.name);
    let begun = Instant::now();
    // The hello is there. But local looks for the server's socket first, which is none before the handshake has ended.
    let follows = listener.to.is_none() && upstream.datapath != Choice::Only(Datapath::Local);
    let wanted = Wanted { carriers, upstream, follows, flow };
    let connected = tokio::select! {
        connected = connect::connect(wanted, &stream) => connected,
        () = flow.killed() => return Err(killed(&stream)),
    };
    record.connect_ms = Some(millis(begun.elapsed()));
    match connected {
        Ok(Connected { stream: server_stream, server, dialed, endpoint }) => {
            note_server(flow, server, dialed.near());
            record.endpoint = endpoint;
            Ok((dialed, Pair { client: stream, upstream: server_stream }, upstream))
        }
        Err(failed) => {
            // Nothing was read, and nothing can be served: a reset lets the client try again at once.
            let _ = sys::reset_on_close(&stream, true);
            Err(match failed {
                Failed::Upstream { failure, error } => {
                    record.error = Some(error.into());
                    Reason::Connect(failure)
                }
                Failed::ClientGone => Reason::ClientGone,
                Failed::Reset => Reason::Reset(Side::Upstream),
            })
        }
    }
}

/// Waits for the hello and finds its route. Gives the stream back with the upstream.
async fn route<'a>(
    stream: TcpStream,
    hub: &Hub,
    flow: &'a Flow,
    record: &mut AccessRecord,
) -> Result<(TcpStream, &'a Upstream), Reason> {
    let begun = Instant::now();
    let limit = flow.config.timeouts.hello;
    let looks = peek::opening(&stream, flow.config.limits.hello_size);
    let opened = tokio::select! {
        opened = tokio::time::timeout(limit, looks) => opened,
        () = flow.killed() => return Err(killed(&stream)),
    };
    record.hello_ms = Some(millis(begun.elapsed()));
    let opened = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            record.error = Some(error.to_string().into());
            return Err(internal(flow, &error));
        }
        Err(_) => Err(HelloFailure::Timeout),
    };
    let label = opened.as_ref().map_or_else(|failure| failure.label(), Opening::label);
    hub.meters.hello(label);
    record.hello = Some(label);
    let opening = opened.map_err(|failure| {
        offend(hub, flow, failure);
        Reason::Hello(failure)
    })?;
    let name = match &opening {
        Opening::Hello(ClientHello { sni: Sni::Name(name) }) => Some(name),
        Opening::Hello(_) | Opening::NotTls => None,
    };
    flow.facts().sni = name.map(|name| name.to_string().into());
    let Some(found) = flow.config.routes.find(name, flow.client.ip()) else {
        if matches!(opening, Opening::Hello(_)) {
            // Boxed, since every connection would have room for it otherwise, for as long as it lives.
            Box::pin(refuse::unrecognized_name(stream)).await;
        }
        return Err(Reason::NoRoute);
    };
    flow.facts().route = Arc::clone(&found.route.name);
    Ok((stream, &found.route.to))
}

/// Nothing was read, so that closing the socket says so.
fn killed(client: &TcpStream) -> Reason {
    let _ = sys::reset_on_close(client, true);
    Reason::Killed
}

/// Lets the guard know.
fn offend(hub: &Hub, flow: &Flow, failure: HelloFailure) {
    let offence = match failure {
        HelloFailure::Timeout | HelloFailure::Eof | HelloFailure::Reset => Offence::NoHello,
        HelloFailure::Broken(_) | HelloFailure::UrgentMark | HelloFailure::TooLarge => Offence::BrokenHello,
    };
    if let Some(sources) = hub.sources.get() {
        sources.offend(flow.client.ip(), offence);
    }
}

fn note_upstream(flow: &Flow, upstream: &Arc<str>) {
    let mut facts = flow.facts();
    facts.stage = Stage::Connect;
    facts.upstream = Some(Arc::clone(upstream));
}

fn note_server(flow: &Flow, server: SocketAddr, near: SocketAddr) {
    let mut facts = flow.facts();
    facts.server = Some(server);
    facts.upstream_local = Some(near);
}

/// Any client may bring that about, as often as it connects: where the kernel may not wait for so large a hello.
fn internal(flow: &Flow, error: &io::Error) -> Reason {
    static COMPLAINT: LogThrottle = LogThrottle::new();
    if COMPLAINT.is_due() {
        tracing::warn!(flow = flow.id, %error, "connection closed: the system refused what it should not");
    }
    Reason::Internal
}
