//! What a flow needs of its sockets to do without them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use proxy_common::packet::eligible::Leg;
use socket2::SockRef;

/// Values of `TCP_REPAIR` (`include/uapi/linux/tcp.h`).
pub(super) const REPAIR_ON: libc::c_int = 1;
pub(super) const REPAIR_OFF: libc::c_int = 0;

/// The head of `struct tcp_info`, as far as `tcpi_advmss`.
const INFO_BYTES: usize = 88;
/// Where its fields are.
const STATE: usize = 0;
const OPTIONS: usize = 5;
const SCALES: usize = 6;
const PATH: usize = 60;
const MOST_RECEIVED: usize = 84;

/// What `TCP_INFO` says of one leg; where its peer is is not known here.
pub(crate) fn leg(socket: &impl AsFd) -> io::Result<Leg> {
    let info = info(socket)?;
    let byte = |at: usize| info.get(at).copied().unwrap_or(0);
    let word = |at: usize| u32::from_ne_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    // Two bit fields of 4 bits: the first one is in the lower half, but for machines of the other order.
    let halves = [byte(SCALES) & 15, byte(SCALES) >> 4];
    let [peer_scale, own_scale] =
        if cfg!(target_endian = "little") { halves } else { [halves[1], halves[0]] };
    Ok(Leg {
        state: byte(STATE),
        options: byte(OPTIONS),
        peer_scale,
        own_scale,
        most_received: word(MOST_RECEIVED),
        path: word(PATH),
        is_ipv6: false,
        is_here: false,
    })
}

fn info(socket: &impl AsFd) -> io::Result<[u8; INFO_BYTES]> {
    let mut info = [0_u8; INFO_BYTES];
    let wanted = libc::socklen_t::try_from(INFO_BYTES).unwrap_or(0);
    let mut size = wanted;
    // SAFETY: the fd is borrowed, so it stays open; the kernel writes at most `size` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    match result {
        0 if size == wanted => Ok(info),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes an established connection show a sign of life of its peer: leaving repair mode sends a window probe
/// (`do_tcp_setsockopt` in `net/ipv4/tcp.c`), which the peer answers. CAP_NET_ADMIN.
pub(crate) fn provoke_answer(socket: &impl AsFd) -> io::Result<()> {
    set_repair(socket, REPAIR_ON)?;
    set_repair(socket, REPAIR_OFF)?;
    // Repair mode takes it away.
    SockRef::from(socket).set_reuse_address(true)
}

/// From now on closing the socket tells its peer nothing.
pub(crate) fn close_silently(socket: &impl AsFd) -> io::Result<()> {
    set_repair(socket, REPAIR_ON)
}

pub(super) fn set_repair(socket: &impl AsFd, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the fd is borrowed, so it stays open; the kernel reads `size` bytes of `value`, which lives here.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
