//! Connecting to an upstream: its servers in turn, and again after a pause while the client can be held.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_common::flow::ConnectFailure;
use proxy_common::plan::{Choice, Datapath};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use crate::datapath::Carriers;
use crate::datapath::packet::Road;
use crate::hub::snapshot::{Server, Timeouts, Upstream};
use crate::sys;

/// First and longest pause between two passes over the servers.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Ports of our own that are tried, before one is left to the kernel.
const TRIES: usize = 32;

/// Why there is no upstream connection.
pub(super) enum Failed {
    /// No server took it.
    Upstream {
        failure: ConnectFailure,
        /// The last server and what it, or the system, said.
        error: String,
    },
    /// The client did not wait.
    ClientGone,
}

/// Connects, or fails once the upstream's hold time is over and each server was tried again. The hello stays in the
/// client's socket meanwhile.
pub(super) async fn connect(
    carriers: &Carriers,
    upstream: &Upstream,
    client: &TcpStream,
    spread: u64,
) -> Result<TcpStream, Failed> {
    tokio::select! {
        result = attempts(carriers, upstream, client, spread) => {
            result.map_err(|(failure, error)| Failed::Upstream { failure, error })
        }
        // An error on the socket: the client has reset. A mere end of its stream is no reason to stop.
        _ = client.ready(Interest::ERROR) => Err(Failed::ClientGone),
    }
}

async fn attempts(
    carriers: &Carriers,
    upstream: &Upstream,
    client: &TcpStream,
    spread: u64,
) -> Result<TcpStream, (ConnectFailure, String)> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let failure = match pass(carriers, upstream, client).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        let left = upstream.hold.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(failure);
        }
        // Held clients come back at slightly different times, or a server that has just come up meets them all at once.
        let spread = f64::from(u8::try_from(spread % 64).unwrap_or(0)) / 128.0;
        tokio::time::sleep((pause + pause.mul_f64(spread)).min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Every server once.
async fn pass(
    carriers: &Carriers,
    upstream: &Upstream,
    client: &TcpStream,
) -> Result<TcpStream, (ConnectFailure, String)> {
    let hub = &carriers.hub;
    let road = match upstream.datapath {
        Choice::Only(Datapath::Packet) => carriers.road.as_deref(),
        Choice::Auto | Choice::Only(_) => None,
    };
    let mut failure = (ConnectFailure::Other, "no server".to_owned());
    for server in &upstream.servers {
        let attempt = Instant::now();
        match one(server, &hub.snapshot.timeouts, road.map(|road| (road, client))).await {
            Ok(stream) => {
                hub.meters.connected(attempt.elapsed());
                return Ok(stream);
            }
            Err((reason, error)) => {
                hub.meters.connect_failed(&upstream.name, reason);
                tracing::debug!(upstream = %upstream.name, %server, %error, "cannot connect");
                failure = (reason, format!("{server}: {error}"));
            }
        }
    }
    Err(failure)
}

async fn one(
    server: &Server,
    timeouts: &Timeouts,
    road: Option<(&Road, &TcpStream)>,
) -> Result<TcpStream, (ConnectFailure, io::Error)> {
    let tuned = |stream: TcpStream| sys::tune(&stream, timeouts.keepalive).map(|()| stream);
    let attempt = async {
        let mut last = (ConnectFailure::Resolve, io::Error::from(io::ErrorKind::NotFound));
        for address in resolve(server).await.map_err(|error| (ConnectFailure::Resolve, error))? {
            match open(address, road).await.and_then(tuned) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = (classify(&error), error),
            }
        }
        Err(last)
    };
    match tokio::time::timeout(timeouts.connect, attempt).await {
        Ok(result) => result,
        Err(_) => Err((ConnectFailure::Timeout, io::ErrorKind::TimedOut.into())),
    }
}

/// Armed to reset from the start: if the client goes while the server accepts, the server must not see the clean end of an
/// empty stream.
///
/// `road`: with a port and options by which the flow can leave its sockets, as the client's connection has them.
async fn open(address: SocketAddr, road: Option<(&Road, &TcpStream)>) -> io::Result<TcpStream> {
    if let Some((road, client)) = road {
        for _ in 0..TRIES {
            let socket = fresh(address)?;
            let Some(_prepared) = road.prepare(&socket, address, client)? else { break };
            match socket.connect(address).await {
                // The kernel has not forgotten the last connection by this port yet.
                Err(error) if is_taken(&error) => {}
                result => return result,
            }
        }
    }
    fresh(address)?.connect(address).await
}

fn fresh(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    sys::reset_on_close(&socket, true)?;
    Ok(socket)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

async fn resolve(server: &Server) -> io::Result<Vec<SocketAddr>> {
    match server {
        Server::Address(address) => Ok(vec![*address]),
        Server::Name { host, port } => Ok(tokio::net::lookup_host((host.as_str(), *port)).await?.collect()),
    }
}

fn classify(error: &io::Error) -> ConnectFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ConnectFailure::Refused,
        io::ErrorKind::TimedOut => ConnectFailure::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}
