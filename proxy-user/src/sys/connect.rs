//! Making connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A non-blocking TCP socket that can be connected to `server`.
pub(crate) fn socket_for(server: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// Whether this host has a route to `address`, and an address of its own to send from. Nothing is sent.
pub(crate) fn way_to(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&address.into())
}

/// Sends the SYN to `server`. Returns the local address of the socket, which the kernel has chosen by then. [`connected`]
/// waits for the answer.
pub(crate) fn dial(socket: &Socket, server: SocketAddr) -> io::Result<SocketAddr> {
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        result => result?,
    }
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Waits until the server has answered. Must run inside a runtime.
pub(crate) async fn connected(socket: Socket) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    // To ask takes a system call.
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

/// Where the client of a connection that was accepted at `near` wanted to go, if this host's NAT has sent it here instead
/// (`SO_ORIGINAL_DST`).
pub(crate) fn original_destination(accepted: &TcpStream, near: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(accepted);
    let found = match near.ip().to_canonical().is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    found.ok()?.as_socket()
}
