//! Bytes that the verdict passed, because their target had no room or was not there: userspace writes them, in their
//! place in the stream and at the target's pace, until the verdict can go on.
//!
//! They are peeked at, written, reported to the verdict, and only then taken off the source. In this order the source's window
//! opens when the verdict knows already that nothing is left, and the next segment is redirected again. Taken off
//! first, a sender that is faster than its receiver would refill the queue for ever, and every byte would be copied.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream as Socket;
use std::time::{Duration, Instant};

use proxy_common::abi::sockmap::Direction;
use proxy_common::flow::{Reading, Side};

use super::ending::{Ending, of, readings};
use super::sockmap::{CREDIT, WINDOW};
use crate::kernel::Track;
use crate::sys;

/// The target's queue has to fall to this before userspace adds to it: the kernel has most of the credit then when it
/// goes on.
const LOW: u64 = CREDIT as u64 / 4;

/// A look holds all that a source's receive buffer can, and the segment that made it too full.
const LOOK: usize = 2 * WINDOW;

/// Most that is taken off a source at a time.
const SIP: usize = 64 * 1024;

/// First and longest pause between two looks at a target; nothing tells when its queue has become short enough.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// When to look a last time after everything seemed to be carried: a segment may have been passed at the very moment
/// that the verdict was told so. It has long been counted by then.
const LAST_LOOK: Duration = Duration::from_millis(50);

thread_local! {
    /// One for each worker: nothing stays in it from one turn to the next.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Userspace's share of one flow.
pub(super) struct Leftover<'a> {
    tracks: &'a [Track<'a>; 2],
    sockets: [&'a Socket; 2],
    /// Of each source, bytes written to its target.
    written: [u64; 2],
    /// Of each source, how many of those are still in its queue.
    ahead: [usize; 2],
    last_look: Option<Instant>,
    acked: [u64; 2],
    pause: Duration,
}

impl<'a> Leftover<'a> {
    pub(super) fn new(tracks: &'a [Track<'a>; 2], sockets: [&'a Socket; 2]) -> Self {
        Self {
            tracks,
            sockets,
            written: [0; 2],
            ahead: [0; 2],
            last_look: None,
            acked: [0; 2],
            pause: PAUSE_MIN,
        }
    }

    /// Moves what can be moved now. Some: come back after that time even if nothing happens.
    pub(super) fn carry(
        &mut self,
        directions: &[Direction; 2],
        ending: &Ending,
    ) -> io::Result<Option<Duration>> {
        let waits = Side::BOTH.map(|side| self.waits(side, directions));
        if waits == [false; 2] {
            let left = self.last_look.map(|at| at.saturating_duration_since(Instant::now()));
            self.last_look = self.last_look.filter(|_| left.is_some_and(|left| !left.is_zero()));
            return Ok(left);
        }
        self.last_look = Some(Instant::now() + LAST_LOOK);
        let legs = readings(self.sockets)?;
        self.note_progress(&legs);
        let mut moved = false;
        for side in Side::BOTH.into_iter().filter(|side| waits.get(side.index()) == Some(&true)) {
            // Bytes wait, so that the verdict redirects no more: only a look that is taken now shows all that it did.
            let direction = self.track(side).read();
            if self.all_written(side, &direction) || self.has_turn(side, &direction, &legs, ending) {
                moved |= self.carry_one(side, &direction)?;
            }
        }
        if moved {
            // More may have been passed meanwhile. Only a look that is taken after the verdict was told says so.
            return Ok(Some(Duration::ZERO));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Ok(Some(pause))
    }

    fn note_progress(&mut self, legs: &[Reading; 2]) {
        let acked = legs.map(|leg| leg.acked);
        if acked != self.acked {
            self.acked = acked;
            self.pause = PAUSE_MIN;
        }
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn waits(&self, side: Side, directions: &[Direction; 2]) -> bool {
        !self.all_written(side, &directions[side.index()]) || self.ahead[side.index()] > 0
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn all_written(&self, side: Side, direction: &Direction) -> bool {
        self.written[side.index()] >= direction.passed
    }

    /// Bytes that were redirected before ours stand in the kernel's queue: ours must not overtake them. And the target
    /// must be able to take more.
    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn has_turn(&self, side: Side, direction: &Direction, legs: &[Reading; 2], ending: &Ending) -> bool {
        let target = side.other();
        let before = direction.redirected.saturating_add(direction.beside);
        let before = before.saturating_add(self.written[side.index()]);
        let queued = legs[target.index()].queued;
        queued <= LOW && ending.written(target, &legs[target.index()]) >= before
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn track(&self, side: Side) -> &Track<'a> {
        &self.tracks[side.index()]
    }

    /// Carries bytes of `side` until all that were passed are written, as long as nothing was redirected in between. Says
    /// whether there were any.
    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn carry_one(&mut self, side: Side, direction: &Direction) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(LOOK, 0);
            let (mut moved, mut passed) = (false, direction.passed);
            while self.write_ahead(side, passed, scratch)? {
                moved = true;
                // The source goes on until its window is closed: what it sent meanwhile was passed too. Unless the verdict
                // had found that nothing was left, and redirected some first: then those have to be written before.
                let now = self.track(side).read();
                if now.passed > self.written[side.index()] {
                    if now.redirected != direction.redirected {
                        return Ok(moved);
                    }
                    passed = now.passed;
                }
            }
            // All is written, or no more of it fits into a look.
            if self.written[side.index()] >= passed || self.ahead[side.index()] == scratch.len() {
                self.discard(side, scratch)?;
            }
            Ok(moved)
        })
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn write_ahead(&mut self, side: Side, passed: u64, scratch: &mut [u8]) -> io::Result<bool> {
        let (source, mut target) = (of(self.sockets, side), of(self.sockets, side.other()));
        let (written, ahead) = (self.written[side.index()], self.ahead[side.index()]);
        let left = usize::try_from(passed.saturating_sub(written)).unwrap_or(usize::MAX);
        let most = ahead.saturating_add(left).min(scratch.len());
        let there = ready(sys::peek(source, scratch.get_mut(..most).unwrap_or_default()))?;
        let fresh = scratch.get(ahead..there).unwrap_or_default();
        let count = if fresh.is_empty() { 0 } else { ready(target.write(fresh))? };
        if count > 0 {
            self.ahead[side.index()] += count;
            self.written[side.index()] += count as u64;
            self.track(side).set_taken(self.written[side.index()]);
        }
        Ok(count > 0)
    }

    /// Takes off the source what is written already, in small reads: after one that empties a full queue, Linux 6.18 does
    /// not announce the open window, and the sender waits for its probe timer (200 ms).
    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn discard(&mut self, side: Side, scratch: &mut [u8]) -> io::Result<()> {
        let mut source = of(self.sockets, side);
        while self.ahead[side.index()] > 0 {
            let most = self.ahead[side.index()].min(SIP);
            let count = ready(source.read(scratch.get_mut(..most).unwrap_or_default()))?;
            if count == 0 {
                // It was there a moment ago; if it is gone, so is the connection. It must not be written twice.
                break;
            }
            self.ahead[side.index()] -= count.min(self.ahead[side.index()]);
        }
        Ok(())
    }
}

/// Errors that need no answer of their own: the socket is not ready, or its peer has ended the connection, which the
/// ending finds out by itself.
fn ready(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            ) =>
        {
            Ok(0)
        }
        result => result,
    }
}
