//! What a TCP socket has received and nobody has read: to look at it, to read it, and how much of it there is.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{RecvFlags, recv};

use super::tcp::set_option;

/// Has each read tell how much is left, for [`receive`] (`TCP_INQ`). Accepted sockets inherit it from their listener. Without it
/// [`receive`] has to ask.
pub(crate) fn tell_what_is_left(socket: &impl AsFd) {
    let _ = set_option(socket, libc::IPPROTO_TCP, libc::TCP_INQ, 1);
}

/// Copies what is queued into `buffer` without consuming it. Never blocks: `WouldBlock` where nothing is queued.
pub(crate) fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (copied, _) = recv(socket, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(copied)
}

/// After [`peek`] has seen `count` bytes: looks at those behind an urgent mark, too, at which each read and each look stops. Returns how
/// many bytes there are in all, and whether there are bytes that it could not look at: Linux before 6.9 does not look past marks
/// (`SO_PEEK_OFF` of TCP).
pub(crate) fn peek_past_marks(
    socket: &impl AsFd,
    buffer: &mut [u8],
    mut count: usize,
) -> io::Result<(usize, bool)> {
    if count == 0 || count == buffer.len() || queued(socket)? <= count {
        return Ok((count, false));
    }
    while count < buffer.len() {
        let offset = libc::c_int::try_from(count).map_err(io::Error::other)?;
        if set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset).is_err() {
            // Unless they came in between, a second look does not show them either.
            let again = peek(socket, buffer)?;
            return Ok((again, again == count));
        }
        match peek(socket, buffer.get_mut(count..).unwrap_or_default()) {
            Ok(more) if more > 0 => count += more,
            _ => break,
        }
    }
    set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
    Ok((count, false))
}

/// Bytes that wait to be read.
fn queued(socket: &impl AsFd) -> io::Result<usize> {
    let mut queued: libc::c_int = 0;
    // SAFETY: the fd is borrowed, so it stays open; FIONREAD (= SIOCINQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut queued) };
    if result == 0 { Ok(usize::try_from(queued).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Reads what is queued, up to an urgent mark: each read ends there, though more bytes may follow. Never blocks. Says whether another
/// read may bring something at once, more bytes or the end; if not, whatever comes later wakes whoever waits for the socket.
pub(crate) fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let (count, left) = receive_message(socket, buffer)?;
    // A socket under a BPF verdict does not tell: it has bytes in a queue of its own, which has no marks.
    Ok((count, left.unwrap_or_else(|| count == buffer.len() || is_at_mark(socket))))
}

/// ConnectionLimit for the one control message that comes with the bytes.
#[repr(C)]
struct Control {
    head: libc::cmsghdr,
    left: libc::c_int,
    _padding: libc::c_int,
}

/// Where the value of a control message begins (`CMSG_DATA`).
const _: () = assert!(std::mem::offset_of!(Control, left).is_multiple_of(size_of::<usize>()));

/// Says whether anything is left, if the kernel tells: bytes, or the end, which counts as one.
fn receive_message(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<bool>)> {
    let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: both are made of integers, and of pointers that may be null: no address, no bytes, no control messages.
    let (mut message, mut control) = unsafe { std::mem::zeroed::<(libc::msghdr, Control)>() };
    message.msg_iov = &raw mut bytes;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the fd is borrowed, so it stays open. `message` refers to `bytes`, which is all of the borrowed buffer, and to `control`,
    // both live and with their true sizes: the kernel writes no more than that, only into memory that is ours alone, and keeps no
    // reference.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let is_told = (control.head.cmsg_level, control.head.cmsg_type) == (libc::IPPROTO_TCP, libc::TCP_CM_INQ);
    Ok((count, is_told.then_some(control.left > 0)))
}

/// Whether the next byte is an urgent one: the read before ended there, though more bytes may follow.
fn is_at_mark(socket: &impl AsFd) -> bool {
    /// `SIOCATMARK` (`include/uapi/asm-generic/sockios.h`).
    const AT_MARK: libc::c_ulong = 0x8905;
    let mut at_mark: libc::c_int = 0;
    // SAFETY: the fd is borrowed, so it stays open; SIOCATMARK writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), AT_MARK as _, &raw mut at_mark) };
    result == 0 && at_mark != 0
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::sys::keep_urgent_bytes;

    /// A client, and the connection that was accepted. All that is sent has come by the time that a call returns: over loopback.
    fn pair(tells: bool) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        keep_urgent_bytes(&listener).unwrap();
        if tells {
            tell_what_is_left(&listener);
        }
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (client, accepted)
    }

    /// Waits for something to read, and reads it by one call.
    fn read(socket: &mut TcpStream, most: usize) -> (Vec<u8>, bool) {
        socket.peek(&mut [0]).unwrap();
        let mut buffer = vec![0; most];
        let (count, may_have_more) = receive(socket, &mut buffer).unwrap();
        buffer.truncate(count);
        (buffer, may_have_more)
    }

    #[test]
    fn a_read_tells_whether_another_one_may_bring_something() {
        let (mut client, mut accepted) = pair(true);
        client.write_all(b"abcdef").unwrap();
        assert_eq!(read(&mut accepted, 4), (b"abcd".to_vec(), true));
        assert_eq!(read(&mut accepted, 2), (b"ef".to_vec(), false), "though it has filled the buffer");
        let nothing = receive(&accepted, &mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"g").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&mut accepted, 8), (b"g".to_vec(), true), "the end is left");
        assert_eq!(read(&mut accepted, 8).0, b"");
    }

    /// Of a socket that does not tell, too.
    #[test]
    fn a_read_that_ends_at_an_urgent_mark_tells_of_what_is_behind() {
        for tells in [true, false] {
            let (mut client, mut accepted) = pair(tells);
            assert_eq!(SockRef::from(&client).send_out_of_band(b"abc").unwrap(), 3);
            client.write_all(b"de").unwrap();
            assert_eq!(read(&mut accepted, 100), (b"ab".to_vec(), true), "{tells}");
            assert_eq!(read(&mut accepted, 100), (b"cde".to_vec(), false), "{tells}");
            let mut rest = [0; 2];
            client.write_all(b"fg").unwrap();
            accepted.read_exact(&mut rest).unwrap();
            assert_eq!(&rest, b"fg", "a read without room for what is told");
        }
    }

    #[test]
    fn a_look_goes_past_marks_and_takes_nothing() {
        let (mut client, mut accepted) = pair(true);
        SockRef::from(&client).send_out_of_band(b"abc").unwrap();
        client.write_all(b"de").unwrap();
        accepted.peek(&mut [0]).unwrap();
        let mut buffer = [0; 16];
        let seen = peek(&accepted, &mut buffer).unwrap();
        assert_eq!(seen, 2);
        match peek_past_marks(&accepted, &mut buffer, seen).unwrap() {
            (5, false) => assert_eq!(&buffer[..5], b"abcde"),
            // Linux before 6.9.
            looked => assert_eq!(looked, (2, true)),
        }
        assert_eq!(read(&mut accepted, 100).0, b"ab");
    }
}
