//! Accepting connections, also when the system runs out of something.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proxy_common::guard::Offence;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::conn;
use crate::datapath::Carriers;
use crate::datapath::packet::Clamped;
use crate::hub::snapshot::Listener;
use crate::hub::{AtLimit, Held, Hub, LogThrottle, Newcomer, Permit, SourcePermit, Under};
use crate::sys;

/// Pause after the system had no descriptor or memory for a connection. The connection stays queued.
const BREATH: Duration = Duration::from_millis(100);

/// Connections that are still taken out of the queue once the daemon drains.
const LAST: usize = 4096;

/// Accepts until the sender of `closed` is dropped. What is queued by then still gets in; what comes later is refused by
/// the kernel. The worker is named by its number.
pub(super) async fn run(
    socket: TcpListener,
    listener: Arc<Listener>,
    (worker, carriers): (usize, Arc<Carriers>),
    mut closed: oneshot::Receiver<()>,
) {
    let hub = Arc::clone(&carriers.hub);
    hub.connection_limit.opened().await;
    let throttle = LogThrottle::default();
    let mut clamped = carriers.packet.as_ref().map(|packet| packet.clamp.of(&listener.name));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut closed => break,
            most = less(&mut clamped) => {
                if let Err(error) = sys::limit_segments(&socket, most) {
                    tracing::warn!(listener = %listener.name, %error, "clients cannot be told to send smaller segments");
                }
                continue;
            }
            accepted = next(&socket, &listener, &hub) => accepted,
        };
        match accepted {
            Ok(accepted) => start(accepted, &listener, worker, &carriers),
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
        start(accepted, &listener, worker, &carriers);
    }
}

/// The largest segment that clients are to send from now on.
async fn less(clamped: &mut Option<Clamped>) -> u32 {
    match clamped {
        Some(clamped) => clamped.news().await,
        None => std::future::pending().await,
    }
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

fn start((permit, stream, client): New, listener: &Arc<Listener>, worker: usize, carriers: &Arc<Carriers>) {
    let hub = &carriers.hub;
    let config = hub.config.current();
    // One that is removed serves connections that came before under its last configuration.
    let listener = config.listener(&listener.name).unwrap_or(listener);
    let under = Under { listener: Arc::clone(listener), config: Arc::clone(&config) };
    hub.meters.accepted(&listener.name);
    // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d; routes and logs speak of a.b.c.d.
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let source_permit = match source_permit(&stream, client, listener, hub) {
        Ok(source_permit) => source_permit,
        Err(AtLimit(_)) => return,
    };
    let seat = hub.workers.seat(worker);
    if seat.worker == worker {
        conn::start(stream, client, under, carriers, Held { permit, seat, source_permit });
        return;
    }
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(%error, "a new connection cannot leave the runtime"),
    };
    let held = Held { permit, seat, source_permit };
    if let Err(newcomer) = hub.workers.serve(Newcomer { stream, client, under, held }) {
        let mut newcomer = *newcomer;
        newcomer.held.seat = newcomer.held.seat.at(worker);
        conn::start_newcomer(newcomer, carriers);
    }
}

/// Sees to it that a source has no more connections than it may. What is too much is reset here, before anything is spent on it.
fn source_permit(
    stream: &TcpStream,
    client: SocketAddr,
    listener: &Listener,
    hub: &Hub,
) -> Result<Option<SourcePermit>, AtLimit> {
    let Some(source_limiter) = hub.source_limits.current() else { return Ok(None) };
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
