//! An epoll set of our own, under the runtime's: the runtime asks for EPOLLIN on everything, and on a spliced socket
//! the wake-ups for bytes that are redirected away cost half the throughput.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

/// What a socket is watched for, always by edges. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The end of the peer's stream only.
    End,
    /// That, and bytes to read and room to write.
    All,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        match self {
            Self::End => end,
            Self::All => end | epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// The set. Readable when a watched socket has news.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `socket`, and tells at once what it has to tell already. The kernel forgets the socket when it is closed.
    pub(crate) fn add(&self, socket: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a watched socket is watched for.
    pub(crate) fn modify(&self, socket: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, socket, epoll::EventData::new_u64(token), interest.flags())?)
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
