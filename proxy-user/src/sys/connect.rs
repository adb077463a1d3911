//! Making connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// A non-blocking TCP socket that can be connected to `server`.
pub(crate) fn socket_for(server: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))
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
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Where the client of an accepted connection wanted to go, if this host's NAT has sent it here instead
/// (`SO_ORIGINAL_DST`).
pub(crate) fn original_destination(accepted: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(accepted);
    let found = match accepted.local_addr().ok()?.ip().to_canonical().is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    found.ok()?.as_socket()
}
