//! Bytes that a server on this host sent faster than the client reads, and that the verdict passed. What the server still has
//! to send is to come to an end soon, since only then its bytes can go past the loopback connection: so the kernel, which
//! copies nothing, gets its turn as early as it can.
//!
//! The bytes are peeked at, written, reported to the verdict, and only then taken off. In this order the window opens when the
//! verdict knows already that nothing is left, and the next segment is redirected again. Taken off first, a server that is faster
//! than its client would refill the queue for ever.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream as Socket;
use std::time::{Duration, Instant};

use proxy_common::abi::sockmap::Direction;
use proxy_common::flow::{Access, Gap, Side, Sides};

use super::slow_path::ready;
use super::teardown::TeardownDriver;
use crate::kernel::Track;
use crate::sys;

/// The receive window of our socket to the server, about: all of it is peeked at in one look.
const WINDOW: usize = 1 << 20;

/// A look holds all that the receive buffer can, and the segment that made it too full.
const LOOK: usize = 2 * WINDOW;

/// The client's queue has to fall to this before userspace adds to it.
const LOW: u64 = 1 << 20;

/// Most that is taken off at a time: after one read that empties a full queue, Linux 6.18 does not announce the open window, and
/// the server waits for its probe timer (200 ms).
const SIP: usize = 64 * 1024;

/// First and longest pause between two looks at the client; nothing tells when its queue has become short enough.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// When to look a last time after everything seemed to be carried: a segment may have been passed at the very moment
/// that the verdict was told so. It has long been counted by then.
const LAST_LOOK: Duration = Duration::from_millis(50);

thread_local! {
    /// One for each worker: nothing stays in it from one turn to the next.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Userspace's share of one download.
pub(super) struct LocalSlowPath<'a> {
    track: &'a Track<'a>,
    client: &'a Socket,
    server: &'a Socket,
    /// Bytes written to the client.
    written: u64,
    /// How many of those are still in our queue.
    ahead: usize,
    acked: u64,
    pause: Duration,
    last_look: Option<Instant>,
    /// Whether bytes of the server are gone.
    gap: Gap,
    lost: bool,
}

impl<'a> LocalSlowPath<'a> {
    /// To be made before the flow begins.
    pub(super) fn new(tracks: &'a Sides<Track<'a>>, sockets: Sides<&'a Socket>) -> io::Result<Self> {
        let (track, client, server) = (&tracks.upstream, sockets.client, sockets.upstream);
        // The kernel doubles it.
        sys::force_receive_buffer(server, WINDOW / 2)?;
        let (pause, last_look) = (PAUSE_MIN, None);
        let (gap, lost) = (Gap::default(), false);
        Ok(Self { track, client, server, written: 0, ahead: 0, acked: 0, pause, last_look, gap, lost })
    }

    /// Moves what can be moved now. Some: come back after that time even if nothing happens.
    pub(super) fn carry(&mut self, teardown: &mut TeardownDriver) -> io::Result<Option<Duration>> {
        let direction = self.track.read();
        let all_written = self.written >= direction.passed;
        if all_written && self.ahead == 0 {
            let left = self.last_look.map(|at| at.saturating_duration_since(Instant::now()));
            self.last_look = self.last_look.filter(|_| left.is_some_and(|left| !left.is_zero()));
            return Ok(left.filter(|left| !left.is_zero()));
        }
        self.last_look = Some(Instant::now() + LAST_LOOK);
        let moved =
            (all_written || self.has_turn(&direction, teardown)?) && self.move_some(&direction, teardown)?;
        if self.lost {
            teardown.lose();
        } else if moved {
            // More may have been passed meanwhile. Only a look that is taken after the verdict was told says so.
            return Ok(Some(Duration::ZERO));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Ok(Some(pause))
    }

    /// Bytes that went before ours stand in the kernel's queues: ours must not overtake them. And the client must be able
    /// to take more.
    fn has_turn(&mut self, direction: &Direction, teardown: &TeardownDriver) -> io::Result<bool> {
        let reading = sys::reading(self.client)?;
        if reading.acked != self.acked {
            (self.acked, self.pause) = (reading.acked, PAUSE_MIN);
        }
        let before = direction.redirected.saturating_add(direction.beside).saturating_add(self.written);
        Ok(reading.queued <= LOW && teardown.written(Side::Client, &reading) >= before)
    }

    /// Carries bytes until all that were passed are written, as long as nothing was redirected in between. Says whether
    /// there were any.
    fn move_some(&mut self, direction: &Direction, teardown: &TeardownDriver) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(LOOK, 0);
            let (mut moved, mut passed) = (false, direction.passed);
            while self.write_ahead(passed, scratch, teardown)? {
                moved = true;
                // The server goes on until the window is closed: what it sent meanwhile was passed too. Unless the verdict had
                // found that nothing was left, and redirected some first: then those have to be written before.
                let now = self.track.read();
                if now.passed > self.written {
                    if (now.redirected, now.beside) != (direction.redirected, direction.beside) {
                        return Ok(moved);
                    }
                    passed = now.passed;
                }
            }
            // All is written, or no more of it fits into a look.
            if self.written >= passed || self.ahead == scratch.len() {
                self.discard(scratch, teardown)?;
            }
            Ok(moved)
        })
    }

    /// Whether the server's socket may be read now.
    fn may_read(&mut self, teardown: &TeardownDriver) -> io::Result<bool> {
        let track = self.track;
        let access = teardown.may_read(&mut self.gap, Side::Upstream, self.server, || track.read().seen())?;
        self.lost = access == Access::Lost;
        Ok(access == Access::Read)
    }

    fn write_ahead(
        &mut self,
        passed: u64,
        scratch: &mut [u8],
        teardown: &TeardownDriver,
    ) -> io::Result<bool> {
        if !self.may_read(teardown)? {
            return Ok(false);
        }
        let left = usize::try_from(passed.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let most = self.ahead.saturating_add(left).min(scratch.len());
        let there = ready(sys::peek(self.server, scratch.get_mut(..most).unwrap_or_default()))?;
        let fresh = scratch.get(self.ahead..there).unwrap_or_default();
        if fresh.is_empty() && left > 0 {
            self.gap.nothing_read();
        }
        let mut client = self.client;
        let count = if fresh.is_empty() { 0 } else { ready(client.write(fresh))? };
        if count > 0 {
            self.ahead += count;
            self.written += count as u64;
            self.track.set_taken(self.written);
        }
        Ok(count > 0)
    }

    fn discard(&mut self, scratch: &mut [u8], teardown: &TeardownDriver) -> io::Result<()> {
        let mut server = self.server;
        while self.ahead > 0 && self.may_read(teardown)? {
            let most = self.ahead.min(SIP);
            let count = ready(server.read(scratch.get_mut(..most).unwrap_or_default()))?;
            if count == 0 {
                // It was there a moment ago; if it is gone, so is the connection. It must not be written twice.
                break;
            }
            self.ahead -= count.min(self.ahead);
        }
        Ok(())
    }
}
