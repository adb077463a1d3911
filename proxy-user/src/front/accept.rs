//! Accepting connections, also when the system runs out of something.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proxy_common::guard::Offence;
use tokio::net::{TcpListener, TcpStream};

use super::conn;
use super::exchange::{Door, Exchange, Held, Newcomer};
use crate::datapath::Carriers;
use crate::datapath::packet::Clamped;
use crate::hub::snapshot::{Listener, Snapshot};
use crate::hub::{AtLimit, Hub, LogThrottle, Permit, Phase, SourcePermit};
use crate::sys;

/// Pause after the system had no descriptor or memory for a connection. The connection stays queued.
const BREATH: Duration = Duration::from_millis(100);

/// Connections that are still taken out of the queue once the daemon drains.
const LAST: usize = 4096;

/// What a worker serves connections with.
pub(super) struct Desk {
    pub(super) worker: usize,
    pub(super) exchange: Arc<Exchange>,
    pub(super) carriers: Arc<Carriers>,
}

/// Accepts until the daemon drains. What is queued by then still gets in; what comes later is refused by the kernel.
pub(super) async fn run(socket: TcpListener, listener: Arc<Listener>, desk: Arc<Desk>) {
    let hub = Arc::clone(&desk.carriers.hub);
    let mut draining = std::pin::pin!(hub.phases.reached(Phase::Draining));
    let throttle = LogThrottle::default();
    let mut clamped = desk.carriers.packet.as_ref().map(|packet| packet.clamp.of(&listener.name));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            most = less(&mut clamped) => {
                if let Err(error) = sys::limit_segments(&socket, most) {
                    tracing::warn!(listener = %listener.name, %error, "clients cannot be told to send smaller segments");
                }
                continue;
            }
            accepted = next(&socket, &listener, &hub) => accepted,
        };
        match accepted {
            Ok(accepted) => start(accepted, &listener, &desk),
            Err(error) => {
                hub.meters.accept_error(&listener.name);
                if concerns_one_connection(&error) {
                    continue;
                }
                if throttle.is_due() {
                    tracing::error!(
                        listener = %listener.name, %error,
                        "cannot accept connections; raise the limit on open files (LimitNOFILE=, ulimit -n) if that is it"
                    );
                }
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    for _ in 0..LAST {
        let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, next(&socket, &listener, &hub)).await
        else {
            return;
        };
        start(accepted, &listener, &desk);
    }
}

/// The largest segment that clients are to send from now on.
async fn less(clamped: &mut Option<Clamped>) -> u32 {
    match clamped {
        Some(clamped) => clamped.news().await,
        None => std::future::pending().await,
    }
}

/// What a connection is accepted under.
pub(super) struct Accepted {
    pub(super) listener: Arc<Listener>,
    pub(super) config: Arc<Snapshot>,
}

/// A new connection, which has its permit.
type New = (Permit, TcpStream, SocketAddr);

/// The next connection, once there is room for it. Until then it waits in the queue of the kernel, which turns away what
/// the queue does not hold.
async fn next(socket: &TcpListener, listener: &Listener, hub: &Hub) -> io::Result<New> {
    loop {
        if hub.connection_limit.is_full() && hub.connection_limit.throttle.is_due() {
            tracing::error!(
                listener = %listener.name, limit = hub.connection_limit.limit(),
                "no room for more connections, new ones wait; raise the limit on open files (LimitNOFILE=, ulimit -n)"
            );
        }
        // The place comes first. Where nobody waits to be accepted it is given back at once: others may have somebody.
        let accepted = std::future::poll_fn(|context| {
            let Some(permit) = hub.connection_limit.take() else { return Poll::Ready(None) };
            socket
                .poll_accept(context)
                .map(|accepted| Some(accepted.map(|(stream, client)| (permit, stream, client))))
        });
        if let Some(accepted) = accepted.await {
            return accepted.map(|(permit, stream, client)| (permit.kept(), stream, client));
        }
        hub.connection_limit.freed().await;
    }
}

fn start((permit, stream, client): New, listener: &Arc<Listener>, desk: &Desk) {
    let config = desk.carriers.hub.config.current();
    // One that is removed serves connections that came before under its last configuration.
    let listener = config.listener(&listener.name).unwrap_or(listener);
    let accepted = Accepted { listener: Arc::clone(listener), config: Arc::clone(&config) };
    desk.carriers.hub.meters.accepted(&listener.name);
    // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d; routes and logs speak of a.b.c.d.
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let source_permit = match source_permit(&stream, client, listener, &desk.carriers.hub) {
        Ok(source_permit) => source_permit,
        Err(AtLimit(_)) => return,
    };
    let seat = desk.exchange.seat(desk.worker);
    if seat.worker == desk.worker {
        serve(stream, client, accepted, desk, Held { permit, seat, source_permit });
        return;
    }
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(%error, "a new connection cannot leave the runtime"),
    };
    if let Err(newcomer) =
        desk.exchange.send(Newcomer { stream, client, accepted, held: Held { permit, seat, source_permit } })
    {
        let mut newcomer = *newcomer;
        newcomer.held.seat = newcomer.held.seat.at(desk.worker);
        take_in(newcomer, desk);
    }
}

/// Serves what other workers have accepted, until none of them is left.
pub(super) async fn welcome(Door(mut door): Door, desk: Arc<Desk>) {
    while let Some(newcomer) = door.recv().await {
        take_in(newcomer, &desk);
    }
}

fn take_in(Newcomer { stream, client, accepted, held }: Newcomer, desk: &Desk) {
    match TcpStream::from_std(stream) {
        Ok(stream) => serve(stream, client, accepted, desk, held),
        Err(error) => {
            desk.carriers.hub.meters.accept_error(&accepted.listener.name);
            tracing::error!(%error, "a new connection cannot enter the runtime");
        }
    }
}

/// Sees to it that a source has no more connections than it may. What is too much is reset here, before anything is spent on it.
fn source_permit(
    stream: &TcpStream,
    client: SocketAddr,
    listener: &Listener,
    hub: &Hub,
) -> Result<Option<SourcePermit>, AtLimit> {
    let Some(source_limiter) = &hub.source_limiter else { return Ok(None) };
    let source = match source_limiter.admit(client.ip()) {
        Ok(source_permit) => return Ok(Some(source_permit)),
        Err(AtLimit(source)) => source,
    };
    hub.meters.turned_away(&listener.name);
    if let Some(sources) = hub.sources.get() {
        sources.offend(client.ip(), Offence::TooMany);
    }
    if source_limiter.throttle.is_due() {
        tracing::warn!(
            listener = %listener.name, %source,
            "a source has as many connections as it may, more are reset; raise source_connections if that is too few"
        );
    }
    let _ = sys::reset_on_close(stream, true);
    Err(AtLimit(source))
}

fn serve(stream: TcpStream, client: SocketAddr, accepted: Accepted, desk: &Desk, held: Held) {
    tokio::spawn(conn::serve(stream, client, accepted, Arc::clone(&desk.carriers), held));
}

/// Errors of a connection that died in the queue (accept(2), "Error handling"): the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
                | libc::ETIMEDOUT
        )
    )
}
