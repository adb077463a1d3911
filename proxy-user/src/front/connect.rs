//! Connecting to an upstream: its servers in turn, and again after a pause while the client can be held.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::time::{Duration, Instant};

use proxy_common::flow::ConnectFailure;
use proxy_common::upstream::{Attempts, Pause, time_per_address};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::datapath::Carriers;
use crate::datapath::packet::PacketDatapath;
use crate::hub::Server;
use crate::hub::snapshot::Upstream;
use crate::hub::{Dialed, Dialing, EndpointUse, Flow, Names, reached};
use crate::sys;

/// Ports of our own that are tried, before one is left to the kernel.
const TRIES: usize = 32;

/// A look-up has a limit of its own, and then says what is wrong.
const LATE: Duration = Duration::from_millis(250);

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
    /// A server took it, and reset it at once. That is its answer, and no other is asked.
    Reset,
}

/// Which upstream is wanted, and for whom.
pub(super) struct Wanted<'a> {
    pub(super) carriers: &'a Carriers,
    pub(super) upstream: &'a Upstream,
    /// The client's first bytes follow as soon as a server takes the connection.
    pub(super) follows: bool,
    /// The client's flow.
    pub(super) flow: &'a Flow,
}

/// A connection to a server.
pub(super) struct Connected<'a> {
    pub(super) stream: TcpStream,
    pub(super) server: SocketAddr,
    /// To be kept as long as `stream`.
    pub(super) dialed: Dialed<'a>,
    /// The server that it counts for.
    pub(super) endpoint: Option<EndpointUse>,
}

/// Connects, or fails once the upstream's hold time is over and each server was tried again. The hello stays in the
/// client's socket meanwhile.
pub(super) async fn connect<'a>(wanted: Wanted<'a>, client: &TcpStream) -> Result<Connected<'a>, Failed> {
    tokio::select! {
        result = attempts(&wanted, client) => result,
        // An error on the socket: the client has reset. A mere end of its stream is no reason to stop.
        _ = client.ready(Interest::ERROR) => Err(Failed::ClientGone),
    }
}

async fn attempts<'a>(wanted: &Wanted<'a>, client: &TcpStream) -> Result<Connected<'a>, Failed> {
    let begun = Instant::now();
    let mut pause = Pause::new(wanted.flow.id);
    loop {
        let failure = match pass(wanted, client).await {
            Err(failure @ Failed::Upstream { .. }) => failure,
            settled => return settled,
        };
        let left = wanted.upstream.hold.saturating_sub(begun.elapsed());
        let Some(pause) = pause.next(left) else { return Err(failure) };
        tokio::time::sleep(pause).await;
    }
}

/// Every server once.
async fn pass<'a>(wanted: &Wanted<'a>, client: &TcpStream) -> Result<Connected<'a>, Failed> {
    let Wanted { carriers, upstream, follows, flow } = *wanted;
    let hub = &carriers.hub;
    let packet = carriers.packet.as_deref().filter(|_| flow.config.may_leave(upstream.datapath));
    let mut failed = Failed::Upstream { failure: ConnectFailure::Other, error: "no server".to_owned() };
    for endpoint in
        Attempts::new(upstream.endpoints.len()).filter_map(|number| upstream.endpoints.get(number))
    {
        let server = endpoint.server();
        let attempt = Instant::now();
        // What the packet datapath knows of an address does not say on which link it is.
        let packet = packet.filter(|_| !matches!(server, Server::LinkLocal { .. }));
        let packet = packet.map(|packet| (packet, client));
        let call = Call { follows, packet, dialing: &hub.dialing, names: &hub.names, flow: flow.id };
        match one(server, call, flow.config.timeouts.connect, upstream.hold).await {
            Ok(mut connected) => {
                hub.meters.connected(attempt.elapsed());
                connected.endpoint = Some(endpoint.accepted(&hub.meters));
                return Ok(connected);
            }
            Err((_, error)) if is_reset(&error) => return Err(Failed::Reset),
            Err((reason, error)) => {
                hub.meters.connect_failed(&upstream.name, reason);
                if !is_our_own_lack(&error) {
                    endpoint.failed(&hub.meters, reason, &error);
                }
                tracing::debug!(upstream = %upstream.name, %server, %error, "cannot connect");
                failed = Failed::Upstream { failure: reason, error: format!("{server}: {error}") };
            }
        }
    }
    Err(failed)
}

/// How a connection is made.
#[derive(Clone, Copy)]
struct Call<'a, 'c> {
    /// Bytes follow at once.
    follows: bool,
    /// With a port and options by which the flow can leave its sockets, as the client's connection has them.
    packet: Option<(&'c PacketDatapath, &'c TcpStream)>,
    dialing: &'a Dialing,
    names: &'c Names,
    /// The id of the client's flow.
    flow: u64,
}

async fn one<'a>(
    server: &Server,
    call: Call<'a, '_>,
    limit: Duration,
    hold: Duration,
) -> Result<Connected<'a>, (ConnectFailure, io::Error)> {
    let addresses = within(limit + LATE, Box::pin(resolve(server, call.names)))
        .await
        .map_err(|error| (ConnectFailure::Resolve, error))?;
    let limit = time_per_address(limit, hold, addresses.len());
    any_of(&addresses, call, limit).await
}

async fn any_of<'a>(
    addresses: &[SocketAddr],
    call: Call<'a, '_>,
    limit: Duration,
) -> Result<Connected<'a>, (ConnectFailure, io::Error)> {
    let mut last = (ConnectFailure::Resolve, io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        match within(limit, Box::pin(open(*address, call))).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                let error = told_apart(error, *address);
                last = (classify(&error), error);
            }
        }
    }
    Err(last)
}

/// The kernel gives one error for two things: it has no port left, which says nothing of the server; or it has no address to connect
/// from, as on a host without IPv6, so that the server cannot be reached.
fn told_apart(error: io::Error, address: SocketAddr) -> io::Error {
    let is_for_want_of_an_address = |error: &io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    if is_for_want_of_an_address(&error)
        && sys::way_to(address).is_err_and(|error| is_for_want_of_an_address(&error))
    {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let text = format!("this host has no {family} address to connect from");
        return io::Error::new(io::ErrorKind::NetworkUnreachable, text);
    }
    error
}

/// Boxed: each `async fn` that `work` is handed through would have room for it twice.
async fn within<T>(limit: Duration, work: Pin<Box<impl Future<Output = io::Result<T>>>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Armed to reset from the start: if the client goes while the server accepts, the server must not see the clean end of an
/// empty stream.
async fn open<'a>(address: SocketAddr, call: Call<'a, '_>) -> io::Result<Connected<'a>> {
    if let Some((packet, client)) = call.packet {
        for _ in 0..TRIES {
            let socket = fresh(address, call.follows)?;
            // Whatever stands against that stands against no connection.
            let Ok(Some(_prepared)) = packet.prepare(&socket, address, client).await else { break };
            match dial(socket, address, call).await {
                // The kernel has not forgotten the last connection by this port yet.
                Err(error) if is_taken(&error) => {}
                result => return result,
            }
        }
    }
    dial(fresh(address, call.follows)?, address, call).await
}

async fn dial<'a>(socket: Socket, address: SocketAddr, call: Call<'a, '_>) -> io::Result<Connected<'a>> {
    let dialed = call.dialing.dial(call.flow, address, || sys::dial(&socket, address))?;
    Ok(Connected { stream: sys::connected(socket).await?, server: reached(address), dialed, endpoint: None })
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn fresh(address: SocketAddr, follows: bool) -> io::Result<Socket> {
    let socket = sys::socket_for(address)?;
    sys::reset_on_close(&socket, true)?;
    sys::write_at_once(&socket)?;
    sys::keep_urgent_bytes(&socket)?;
    sys::tell_what_is_left(&socket);
    if follows {
        sys::answer_with_data(&socket)?;
    }
    Ok(socket)
}

async fn resolve(server: &Server, names: &Names) -> io::Result<Vec<SocketAddr>> {
    match server {
        Server::Address(address) => Ok(vec![*address]),
        Server::LinkLocal { ip, interface, port } => {
            let scope = sys::interface_number(interface)?;
            Ok(vec![SocketAddrV6::new(*ip, *port, 0, scope).into()])
        }
        Server::Name { host, port } => {
            let addresses = names.find(host).await?;
            Ok(addresses.iter().map(|address| SocketAddr::new(*address, *port)).collect())
        }
    }
}

/// Whether the connection was established, and then reset before anybody looked. A reset after a FIN has a name of its own
/// (`tcp_reset` in `net/ipv4/tcp_input.c`); a refusal has another.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Whether this host has run out of something, which says nothing of the server.
fn is_our_own_lack(error: &io::Error) -> bool {
    let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    is_taken(error) || error.raw_os_error().is_some_and(|code| lacks.contains(&code))
}

fn classify(error: &io::Error) -> ConnectFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::TimedOut => ConnectFailure::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            ConnectFailure::Unreachable
        }
        // A kernel without IPv6.
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    /// It answers no more connections once its queue is full.
    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_hide_the_next_one() {
        let listener = |backlog| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(backlog).unwrap()
        };
        let (silent, answering) = (listener(0), listener(8));
        let addresses = [&silent, &answering].map(|listener| listener.local_addr().unwrap());
        let (dialing, names) = (Dialing::default(), Names::new(&[]));
        let call = Call { follows: false, packet: None, dialing: &dialing, names: &names, flow: 1 };
        let limit = Duration::from_millis(200);
        let mut waiting = Vec::new();
        let failure = loop {
            match any_of(&addresses[..1], call, limit).await {
                Ok(connected) => waiting.push(connected),
                Err((failure, _)) => break failure,
            }
        };
        assert_eq!(failure, ConnectFailure::Timeout);
        let connected = any_of(&addresses, call, limit).await.map_err(|(_, error)| error).unwrap();
        assert_eq!(connected.stream.peer_addr().unwrap(), addresses[1]);
    }
}
