//! Accepting connections, also when the system runs out of something.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use super::conn;
use crate::datapath::Carriers;
use crate::hub::snapshot::Listener;
use crate::hub::{Hub, Phase};

/// Pause after the system had no descriptor or memory for a connection. The connection stays queued.
const BREATH: Duration = Duration::from_millis(100);

/// An operator needs one line, not one for each of a million refused connections.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Connections that are still taken out of the queue once the daemon drains.
const LAST: usize = 4096;

/// Accepts until the daemon drains. What is queued by then still gets in; what comes later is refused by the kernel.
pub(super) async fn run(socket: TcpListener, listener: Arc<Listener>, carriers: Arc<Carriers>) {
    let hub = Arc::clone(&carriers.hub);
    let mut draining = std::pin::pin!(hub.phases.reached(Phase::Draining));
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            accepted = next(&socket, &listener, &hub) => accepted,
        };
        match accepted {
            Ok((stream, client)) => start(stream, client, &listener, &carriers),
            Err(error) => {
                hub.meters.accept_error(&listener.name);
                if concerns_one_connection(&error) {
                    continue;
                }
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    complained = Some(Instant::now());
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
        let Ok(Ok((stream, client))) = tokio::time::timeout(Duration::ZERO, socket.accept()).await else {
            return;
        };
        start(stream, client, &listener, &carriers);
    }
}

/// The next connection, once there is room for it. Until then it waits in the queue of the kernel, which turns away what
/// the queue does not hold.
async fn next(
    socket: &TcpListener,
    listener: &Listener,
    hub: &Hub,
) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    loop {
        if hub.room.is_full() {
            if hub.room.may_complain() {
                tracing::error!(
                    listener = %listener.name, limit = hub.room.limit(),
                    "no room for more connections, new ones wait; raise the limit on open files (LimitNOFILE=, ulimit -n)"
                );
            }
            hub.room.becomes(false).await;
        }
        tokio::select! {
            biased;
            () = hub.room.becomes(true) => {}
            accepted = socket.accept() => return accepted,
        }
    }
}

fn start(
    stream: TcpStream,
    client: std::net::SocketAddr,
    listener: &Arc<Listener>,
    carriers: &Arc<Carriers>,
) {
    carriers.hub.meters.accepted(&listener.name);
    // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d; routes and logs speak of a.b.c.d.
    let client = std::net::SocketAddr::new(client.ip().to_canonical(), client.port());
    tokio::spawn(conn::serve(stream, client, Arc::clone(listener), Arc::clone(carriers)));
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
