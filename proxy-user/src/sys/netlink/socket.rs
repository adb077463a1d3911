//! Netlink sockets: for requests and the answers to them, and for reports.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, send, socket_with};

use super::message::{ACKNOWLEDGE, DONE, DUMP, ERROR, Message, messages, request};

/// Bytes of one read. The kernel makes its lists fit.
const READ: usize = 16 * 1024;
/// Reads for one answer: others may wait that belong to questions that were given up.
const READS: usize = 64;

/// How long to wait for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// The kernel has answered by the time that a request is sent.
    Not,
    UpTo(Duration),
}

/// A socket for requests, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct NetlinkSocket {
    fd: OwnedFd,
    /// Of the last request.
    sequence: Cell<u32>,
}

/// A request that changes something.
pub(super) struct Change {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
}

impl NetlinkSocket {
    /// For questions. `protocol`: None is `NETLINK_ROUTE`.
    pub(super) fn open(protocol: Option<Protocol>, wait: Wait) -> io::Result<Self> {
        let fd = open(protocol, matches!(wait, Wait::Not))?;
        if let Wait::UpTo(limit) = wait {
            set_socket_timeout(&fd, Timeout::Recv, Some(limit))?;
        }
        Ok(Self { fd, sequence: Cell::new(0) })
    }

    /// Puts a question, and returns the body of the answer of this kind.
    pub(super) fn ask(&self, kind: u16, body: &[u8], wanted: u16) -> io::Result<Vec<u8>> {
        let sequence = self.next_sequence();
        self.send(&request(kind, 0, sequence, body)?)?;
        self.answer(sequence, |message| match message.kind {
            kind if kind == wanted => Ok(message.body.to_vec()),
            ERROR => Err(message.outcome().err().unwrap_or_else(|| io::ErrorKind::InvalidData.into())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        })
    }

    /// Asks for a list, and calls `each` with the body of each entry of this kind.
    pub(super) fn list(
        &self,
        kind: u16,
        body: &[u8],
        wanted: u16,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        self.send(&request(kind, DUMP, sequence, body)?)?;
        loop {
            let bytes = receive(&self.fd)?;
            for message in messages(&bytes).filter(|message| message.sequence == sequence) {
                match message.kind {
                    kind if kind == wanted => each(message.body),
                    DONE => return Ok(()),
                    ERROR => return message.outcome(),
                    _ => {}
                }
            }
        }
    }

    /// Requests changes, all with one call, and returns the outcome of each. After an error of the whole, the socket must be dropped.
    pub(super) fn change<const N: usize>(&self, changes: [Change; N]) -> io::Result<[io::Result<()>; N]> {
        let mut bytes = Vec::new();
        let sequences = changes.map(|change| {
            let sequence = self.next_sequence();
            bytes.push(request(change.kind, change.flags | ACKNOWLEDGE, sequence, &change.body));
            sequence
        });
        self.send(&bytes.into_iter().collect::<io::Result<Vec<_>>>()?.concat())?;
        let mut failure = None;
        let outcomes = sequences.map(|sequence| {
            let outcome = self.answer(sequence, |message| match message.kind {
                ERROR => Ok(message.outcome()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            });
            outcome.unwrap_or_else(|error| {
                failure = Some(error);
                Ok(())
            })
        });
        failure.map_or(Ok(outcomes), Err)
    }

    /// The first message that answers a request, as `read` understands it.
    fn answer<T>(&self, sequence: u32, read: impl Fn(Message<'_>) -> io::Result<T>) -> io::Result<T> {
        for _ in 0..READS {
            let bytes = receive(&self.fd)?;
            if let Some(message) = messages(&bytes).find(|message| message.sequence == sequence) {
                return read(message);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn next_sequence(&self) -> u32 {
        let next = self.sequence.get().wrapping_add(1);
        self.sequence.set(next);
        next
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = retry_on_intr(|| send(&self.fd, bytes, SendFlags::empty()))?;
        // The kernel takes a message whole or not at all.
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// A socket for reports of the kernel.
#[derive(Debug)]
pub(super) struct Reports(OwnedFd);

impl Reports {
    /// Of these groups (a bit each) of `NETLINK_ROUTE`.
    pub(super) fn listen(groups: u32) -> io::Result<Self> {
        let fd = open(None, true)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(fd))
    }

    /// Shows the bytes of all reports that are there. None: the socket had no space for some, which are lost.
    pub(super) fn take(&self, mut show: impl FnMut(Option<&[u8]>)) {
        loop {
            match receive(&self.0) {
                Ok(bytes) => show(Some(&bytes)),
                // The ones that are left follow.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => show(None),
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Reports {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn open(protocol: Option<Protocol>, nonblocking: bool) -> io::Result<OwnedFd> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, nonblocking);
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?)
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; READ];
    let (count, _) = retry_on_intr(|| recv(socket, bytes.as_mut_slice(), RecvFlags::empty()))?;
    bytes.truncate(count);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RTM_GETLINK`, `RTM_NEWLINK`, and a `struct ifinfomsg` of the loopback.
    const GET: u16 = 18;
    const NEW: u16 = 16;
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn answers_to_questions_that_were_given_up_are_passed_over() {
        let socket = NetlinkSocket::open(None, Wait::UpTo(Duration::from_secs(5))).unwrap();
        for abandoned in 0..3 {
            socket.send(&request(GET, 0, 1000 + abandoned, &[255; 16]).unwrap()).unwrap();
        }
        let answer = socket.ask(GET, &LOOPBACK, NEW).unwrap();
        assert_eq!(answer.get(4..8), LOOPBACK.get(4..8));
    }

    #[test]
    fn a_question_without_an_answer_ends_at_its_time_limit() {
        let socket = NetlinkSocket::open(None, Wait::UpTo(Duration::from_millis(20))).unwrap();
        let error = socket.answer(1, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_list_comes_to_its_end() {
        let socket = NetlinkSocket::open(None, Wait::UpTo(Duration::from_secs(5))).unwrap();
        let mut count = 0;
        socket.list(GET, &[0; 16], NEW, |_| count += 1).unwrap();
        assert!(count > 0);
    }
}
