//! Sockets for connections that exist already: made in repair mode (`TCP_REPAIR`), in which nothing is sent, not even when they
//! are closed. CAP_NET_ADMIN.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use proxy_common::packet::restore::Start;
use socket2::{Domain, Protocol, Socket, Type};

use super::leg::{REPAIR_OFF, REPAIR_ON, set_repair};
use super::received::tell_what_is_left;
use super::tcp::keep_urgent_bytes;

/// Queues of `TCP_REPAIR_QUEUE` (`include/uapi/linux/tcp.h`).
const NO_QUEUE: u32 = 0;
const RECEIVED: u32 = 1;
const SENT: u32 = 2;

/// Options of TCP that `TCP_REPAIR_OPTIONS` knows.
const SEGMENT_SIZE: u32 = 2;
const SCALES: u32 = 3;
const SELECTIVE: u32 = 4;
const STAMPS: u32 = 8;

/// What a new socket takes, to begin with: it grows.
const WINDOW: u32 = 0xffff;

/// A connection as its peer knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
    pub(crate) start: Start,
    /// The largest segment that the peer takes.
    pub(crate) most_sent: u32,
    /// And the largest that it was told that we do, if that is known.
    pub(crate) most_received: Option<u32>,
    /// Selective acknowledgements were agreed on.
    pub(crate) selective: bool,
}

/// `struct tcp_repair_opt`.
#[repr(C)]
struct Opt {
    code: u32,
    value: u32,
}

/// `struct tcp_repair_window`.
#[repr(C)]
struct Window {
    peer_updated_at: u32,
    peer: u32,
    peer_largest: u32,
    own: u32,
    own_updated_at: u32,
}

/// Makes the socket. Until [`begin`] it says nothing, whatever comes in.
pub(crate) fn restore(connection: &Connection) -> io::Result<Socket> {
    let Connection { near, far, start, .. } = connection;
    let socket = Socket::new(Domain::for_address(*far), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    keep_urgent_bytes(&socket)?;
    tell_what_is_left(&socket);
    // Also lets it have the address of a listener.
    set_repair(&socket, REPAIR_ON)?;
    if let Some(most) = connection.most_received {
        set(&socket, libc::TCP_MAXSEG, &most)?;
    }
    socket.bind(&(*near).into())?;
    for (queue, sequence) in [(SENT, start.send), (RECEIVED, start.receive)] {
        set(&socket, libc::TCP_REPAIR_QUEUE, &queue)?;
        set(&socket, libc::TCP_QUEUE_SEQ, &sequence)?;
    }
    set(&socket, libc::TCP_REPAIR_QUEUE, &NO_QUEUE)?;
    socket.connect(&(*far).into())?;
    agree(&socket, connection)?;
    let window = Window {
        peer_updated_at: start.receive,
        peer: start.window,
        peer_largest: start.window,
        own: WINDOW,
        own_updated_at: start.receive,
    };
    set(&socket, libc::TCP_REPAIR_WINDOW, &window)?;
    Ok(socket)
}

/// What the ends have agreed on when the connection was made.
fn agree(socket: &Socket, connection: &Connection) -> io::Result<()> {
    let start = &connection.start;
    let scales = u32::from(start.peer_scale) | u32::from(start.own_scale) << 16;
    let opt = |code, value| Opt { code, value };
    let mut options = vec![opt(SEGMENT_SIZE, connection.most_sent), opt(SCALES, scales)];
    options.extend(connection.selective.then(|| opt(SELECTIVE, 0)));
    options.extend(start.stamp.map(|_| opt(STAMPS, 0)));
    for option in &options {
        set(socket, libc::TCP_REPAIR_OPTIONS, option)?;
    }
    if let Some(stamp) = start.stamp {
        // An odd one means microseconds (Linux 6.7).
        set(socket, libc::TCP_TIMESTAMP, &(stamp.wrapping_add(1) & !1))?;
    }
    Ok(())
}

/// Lets the socket speak: its peer is asked for a sign of life, and says where it stands.
pub(crate) fn begin(socket: &impl AsFd) -> io::Result<()> {
    set_repair(socket, REPAIR_OFF)?;
    // Repair mode takes it away. Without it nobody could listen at the address anew.
    socket2::SockRef::from(socket).set_reuse_address(true)
}

/// The largest segment that the peer of a socket in repair mode takes, as it said when the connection was made.
pub(crate) fn most_sent(socket: &impl AsFd) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the fd is borrowed, so it stays open; the kernel writes at most `size` bytes into `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(u32::try_from(value).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: &Socket, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(value)).unwrap_or(0);
    // SAFETY: the fd is borrowed, so it stays open; the kernel reads `size` bytes of `value`, which lives here and is made of
    // integers without padding.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, std::ptr::from_ref(value).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
