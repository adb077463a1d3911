//! Listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::received::tell_what_is_left;
use super::tcp::{keep_alive, keep_urgent_bytes, write_at_once};

/// Connections that may wait to be accepted: a whole fleet may come back in one instant. The kernel cuts it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A non-blocking listener on `address`. Several may share one address, for one worker each: the kernel spreads the
/// connections. An unspecified IPv6 address takes IPv4 too. Accepted sockets inherit what is tuned here (`sk_clone_lock` in
/// `net/core/sock.c`), for which each would need six system calls of its own.
pub(crate) fn bind(address: SocketAddr, shared: bool, silence: Option<Duration>) -> io::Result<TcpListener> {
    let socket = bound(address, shared)?;
    keep_urgent_bytes(&socket)?;
    tell_what_is_left(&socket);
    if let Some(silence) = silence {
        write_at_once(&socket)?;
        keep_alive(&socket, silence)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether nobody listens on `address`: else the error that binding it alone gives.
pub(crate) fn check_free(address: SocketAddr) -> io::Result<()> {
    bound(address, false).map(drop)
}

/// Whether this host has the address.
pub(crate) fn is_own_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
