//! Sending a TCP segment that no socket knows of.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Sends `segment`, a TCP header with what follows it, from `source` to `target`. CAP_NET_RAW.
pub(crate) fn send_segment(source: IpAddr, target: IpAddr, segment: &[u8]) -> io::Result<()> {
    let address = |ip| SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address(target)), Type::RAW, Some(Protocol::TCP))?;
    // It gets a copy of every segment that comes in while it is open.
    socket.set_recv_buffer_size(0)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address(source).into())?;
    socket.send_to(segment, &address(target).into()).map(drop)
}
