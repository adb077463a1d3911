//! Waiting for many sockets at once.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Events that are taken from the kernel at once.
const BATCH: usize = 256;

/// A set of sockets, each known by a number.
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll_create")?))
    }

    /// Reports `token` as long as `source` can be read from.
    pub(super) fn add(&self, source: impl AsFd, token: u64) -> Result<()> {
        self.add_for(source, token, epoll::EventFlags::IN)
    }

    /// Reports `token` as long as one of `flags` holds for `source`.
    pub(super) fn add_for(&self, source: impl AsFd, token: u64, flags: epoll::EventFlags) -> Result<()> {
        epoll::add(&self.0, source, epoll::EventData::new_u64(token), flags).context("epoll_ctl")
    }

    /// Reports `token` for other events from now on.
    pub(super) fn change(&self, source: impl AsFd, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, source, epoll::EventData::new_u64(token), flags)?)
    }

    /// Waits for at least one event, for `limit` at most, and appends the numbers of the sockets that have one.
    pub(super) fn wait(&self, limit: Duration, ready: &mut Vec<u64>) -> Result<()> {
        let limit = Timespec::try_from(limit).context("a wait that is too long")?;
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        match epoll::wait(&self.0, &mut events, Some(&limit)) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        Ok(())
    }
}
