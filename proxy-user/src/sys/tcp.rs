//! Options and measures of established TCP sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use proxy_common::flow::Reading;
use rustix::net::sockopt;
use socket2::{SockRef, TcpKeepalive};

/// Keepalive in the proportions that Halibut uses on both ends: of 65 s the first 15 s without a probe, and then 10
/// probes, one every 5 s.
const KEEPALIVE_PARTS: u32 = 13;
const KEEPALIVE_IDLE_PARTS: u32 = 3;
const KEEPALIVE_PROBES: u32 = KEEPALIVE_PARTS - KEEPALIVE_IDLE_PARTS;

/// Probes or retransmissions that a peer has left unanswered before its silence counts: one may have been sent just now.
const UNANSWERED: u8 = 3;

/// `TCP_ESTABLISHED` (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;

/// Lets small writes go at once: without `TCP_NODELAY` two of them and a reply take 40 ms. The kernel's redirect is a
/// write like any other.
pub(crate) fn write_at_once(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Leaves urgent bytes (`MSG_OOB`) in the stream, where their sender put them (`SO_OOBINLINE`). Else a read skips each, though its
/// sequence number counts. To be set before the first byte can come; accepted sockets inherit it from their listener.
pub(crate) fn keep_urgent_bytes(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_out_of_band_inline(true)
}

/// Lets the acknowledgement that ends the handshake of a connecting socket wait for the first bytes, which must follow at once
/// (`tcp_rcv_synsent_state_process` in `net/ipv4/tcp_input.c`): a segment less for each connection. If they do not, it is
/// sent after 40 ms to 200 ms.
pub(crate) fn answer_with_data(socket: &impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_quickack(socket, false)?)
}

/// Lets neither end send segments of more than `bytes` (`TCP_MAXSEG`). A listening socket hands it on to the connections that
/// begin from now on.
pub(crate) fn limit_segments(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    /// `TCP_MIN_MSS` and `MAX_TCP_WINDOW` (`include/net/tcp.h`).
    const POSSIBLE: std::ops::RangeInclusive<u32> = 88..=32_767;
    SockRef::from(socket).set_tcp_mss(bytes.clamp(*POSSIBLE.start(), *POSSIBLE.end()))
}

/// Lets the kernel find an idle peer that answers no probe for `silence`.
///
/// `TCP_USER_TIMEOUT` would bound the silence of a busy peer too. It is not set, because it also ends connections whose
/// peer is well and merely does not read (tcp(7); measured on Linux 6.18). [`Reading::silent`] is for that.
pub(crate) fn keep_alive(socket: &impl AsFd, silence: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(whole_seconds(silence * KEEPALIVE_IDLE_PARTS / KEEPALIVE_PARTS))
        .with_interval(whole_seconds(silence / KEEPALIVE_PARTS))
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// The kernel counts keepalive in seconds, and takes no 0.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

/// While armed, closing the socket in any way, also by the death of the process, sends a reset in place of a FIN.
pub(crate) fn reset_on_close(socket: &impl AsFd, armed: bool) -> io::Result<()> {
    SockRef::from(socket).set_linger(armed.then_some(Duration::ZERO))
}

/// Lets `bytes` wait in the send buffer, whatever `net.core.wmem_max` says (`SO_SNDBUFFORCE`, CAP_NET_ADMIN). The kernel
/// doubles the figure for its own bookkeeping (socket(7)).
pub(crate) fn force_send_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size_force(socket, bytes)?)
}

/// Lets at most `bytes` wait in the send buffer without having been sent, beyond which the socket counts as full
/// (`TCP_NOTSENT_LOWAT`, tcp(7)). Writers are woken at half of it.
pub(crate) fn limit_unsent(socket: &impl AsFd, bytes: u64) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Sets the receive window to about `bytes`, whatever `net.core.rmem_max` says (`SO_RCVBUFFORCE`, CAP_NET_ADMIN), and stops the
/// kernel from tuning it. The kernel doubles the figure for its own bookkeeping (socket(7)).
pub(crate) fn force_receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_recv_buffer_size_force(socket, bytes)?)
}

/// `SO_COOKIE`: a number that the kernel gives to this socket only, ever.
pub(crate) fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Takes the pending error of the socket, if any. For naming a reason, never for finding out whether the socket
/// is alive: a write by the kernel may have taken the error before.
pub(crate) fn error(socket: &impl AsFd) -> Option<io::Error> {
    SockRef::from(socket).take_error().ok().flatten()
}

/// Lets the kernel tune the receive buffer again after [`force_receive_buffer`] (`SO_BUF_LOCK`, Linux 5.14; before, it stays
/// as it is). The send buffer, which [`force_send_buffer`] has set, stays as it is.
pub(crate) fn tune_receive_buffer(socket: &impl AsFd) -> io::Result<()> {
    /// `SOCK_SNDBUF_LOCK` in `include/uapi/linux/socket.h`.
    const SEND: libc::c_int = 1;
    match set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, SEND) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// Like [`wake_when_readable`], of a socket that nobody reads until then: its receive buffer is made so large that `bytes` fit. The
/// kernel cuts what is asked for to half of the buffer, or of what `net.ipv4.tcp_rmem` lets it become (`tcp_set_rcvlowat`), and
/// wakes for that at once and again. Where that is too little the size of the buffer is set: without CAP_NET_ADMIN to what
/// `net.core.rmem_max` allows.
///
/// # Errors
/// So many bytes cannot be waited for.
pub(crate) fn wake_when_all_readable(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    wake_when_readable(socket, bytes)?;
    if low_water(socket)? >= bytes {
        return Ok(());
    }
    if force_receive_buffer(socket, bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    wake_when_readable(socket, bytes)?;
    // Its size may grow again. The size of the other buffer has not been touched.
    match set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => return Err(error),
        _ => {}
    }
    if low_water(socket)? >= bytes {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "net.core.rmem_max is too small to wait for a hello of {bytes} bytes: raise it, or give the process CAP_NET_ADMIN"
    )))
}

/// `SO_RCVLOWAT`, as the kernel has it.
fn low_water(socket: &impl AsFd) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the fd is borrowed, so it stays open; the kernel writes at most `size` bytes into `value` and the new size into
    // `size`, both of which live here.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw mut value).cast(), &raw mut size)
    };
    if result == 0 { Ok(usize::try_from(value).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Wakes readers only when at least `bytes` are queued, or at the end of the stream (`SO_RCVLOWAT`). Setting it also
/// makes the kernel look at the queue at once, which is how bytes that arrived before a splice are set going
/// (`tcp_set_rcvlowat` in `net/ipv4/tcp.c`).
pub(crate) fn wake_when_readable(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes.max(1)).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value)
}

pub(super) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the fd is borrowed, so it stays open; the kernel reads `size` bytes of `value`, which lives here.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether both directions of the socket are open.
pub(crate) fn is_established(reading: &Reading) -> bool {
    reading.state == ESTABLISHED
}

/// `TCP_INFO`, then `SIOCOUTQ`: in this order an acknowledgement in between makes their sum too small, never too
/// large.
pub(crate) fn reading(socket: &impl AsFd) -> io::Result<Reading> {
    let reading = fresh_reading(socket)?;
    Ok(Reading { queued: out_queue(socket)?, ..reading })
}

/// The same, and exact: no acknowledgement came in between. Of a socket that nothing is being written to, so that there are
/// not many.
pub(crate) fn exact_reading(socket: &impl AsFd) -> io::Result<Reading> {
    let mut before = reading(socket)?;
    loop {
        let after = reading(socket)?;
        if after.acked == before.acked {
            return Ok(before);
        }
        before = after;
    }
}

/// The same of a socket that nothing was written to.
pub(crate) fn fresh_reading(socket: &impl AsFd) -> io::Result<Reading> {
    let info = tcp_info(socket)?;
    let owes_an_answer = info.retransmits >= UNANSWERED || info.probes >= UNANSWERED;
    let silent = if owes_an_answer { Duration::from_millis(info.last_ack_ms.into()) } else { Duration::ZERO };
    let rested = Duration::from_millis(info.last_data_sent_ms.min(info.last_data_received_ms).into());
    let sent = info.sent.saturating_sub(info.sent_again);
    Ok(Reading {
        state: info.state,
        acked: info.acked,
        received: info.received,
        queued: 0,
        sent,
        silent,
        rested,
    })
}

/// The head of `struct tcp_info` (`include/uapi/linux/tcp.h`): fields are only ever added behind, and a kernel gives
/// as many as it has room for.
#[repr(C)]
struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    before_times: [u8; 40],
    last_data_sent_ms: u32,
    /// Not kept by Linux.
    last_ack_sent_ms: u32,
    last_data_received_ms: u32,
    last_ack_ms: u32,
    before_counts: [u8; 60],
    acked: u64,
    received: u64,
    before_sent: [u8; 64],
    sent: u64,
    sent_again: u64,
}

const _: () = assert!(std::mem::offset_of!(TcpInfo, last_data_sent_ms) == 44);
const _: () = assert!(std::mem::offset_of!(TcpInfo, last_ack_ms) == 56);
const _: () = assert!(std::mem::offset_of!(TcpInfo, acked) == 120);
const _: () = assert!(std::mem::offset_of!(TcpInfo, sent) == 200);
const _: () = assert!(size_of::<TcpInfo>() == 216);

fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let mut info = TcpInfo {
        state: 0,
        ca_state: 0,
        retransmits: 0,
        probes: 0,
        before_times: [0; 40],
        last_data_sent_ms: 0,
        last_ack_sent_ms: 0,
        last_data_received_ms: 0,
        last_ack_ms: 0,
        before_counts: [0; 60],
        acked: 0,
        received: 0,
        before_sent: [0; 64],
        sent: 0,
        sent_again: 0,
    };
    let wanted = libc::socklen_t::try_from(size_of::<TcpInfo>()).unwrap_or(0);
    let mut size = wanted;
    // SAFETY: the fd is borrowed, so it stays open; the kernel writes at most `size` bytes into `info`, and every bit
    // pattern is a valid TcpInfo.
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
        0 => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "TCP_INFO has no count of bytes sent (Linux 4.19 has)",
        )),
        _ => Err(io::Error::last_os_error()),
    }
}

fn out_queue(socket: &impl AsFd) -> io::Result<u64> {
    let mut queued: libc::c_int = 0;
    // SAFETY: the fd is borrowed, so it stays open; SIOCOUTQ (= TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    if result == 0 { Ok(u64::try_from(queued).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}
