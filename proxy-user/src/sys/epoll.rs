//! An epoll set of our own, under the runtime's: the runtime asks for EPOLLIN on everything, and on a spliced socket
//! the wake-ups for bytes that are redirected away cost half the throughput.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

/// The set. Readable when a watched socket has news.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `socket` for the end of its peer's stream, for errors and hang-ups, each told once. Tells at once what it has
    /// to tell already. The kernel forgets the socket when it is closed.
    pub(crate) fn add(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.0, socket, epoll::EventData::new_u64(token), end)?)
    }

    /// Also tells, once, when `socket`, which is watched already, has room for more to be written; at once if it has now.
    pub(crate) fn again(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        let either = epoll::EventFlags::RDHUP | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::modify(&self.0, socket, epoll::EventData::new_u64(token), either)?)
    }

    /// Calls `each` with the token of every socket with news, at most 256; says whether there may be more. Does not
    /// block.
    pub(crate) fn take(&self, mut each: impl FnMut(u64)) -> io::Result<bool> {
        let mut room = [MaybeUninit::uninit(); 256];
        let (events, rest) = epoll::wait(&self.0, &mut room, Some(&Timespec::default()))?;
        for event in events {
            each(event.data.u64());
        }
        Ok(rest.is_empty())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Poller {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
