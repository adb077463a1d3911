//! Bytes that the verdict passed, because their target had no room or was not there: userspace copies them, at the
//! target's pace, until the source has no more. Then the verdict goes on.
//!
//! Only an empty source hands back to the verdict. Reading opens the source's window, and a sender on the same host answers
//! inside that very system call, while the socket is ours: Linux 6.18 then counts those segments against the window,
//! and forgets to open it again unless somebody reads on. Passed segments are read on; redirected ones would leave the sender
//! to its probe timer (200 ms).

use std::io::{self, Read, Write};
use std::net::TcpStream as Socket;
use std::ops::Range;
use std::time::{Duration, Instant};

use proxy_common::abi::sockmap::Direction;
use proxy_common::flow::{Access, Gap, Side, Sides};

use super::buffers::Buffer;
use super::teardown::{TeardownDriver, earlier};
use super::watch::Watch;
use super::window::Window;
use crate::kernel::Track;
use crate::sys;

/// Bytes that may wait in the target's queue without having been sent, while userspace writes: enough that the
/// link does not run dry between two wake-ups.
const UNSENT_MAX: u64 = 2 * 1024 * 1024;

/// And at least, however slow the target is.
const UNSENT_MIN: u64 = 64 * 1024;

/// Buffers that one direction may move before the other flows of the worker get their turn.
const TURN: usize = 16;

/// First and longest pause before we look again whether redirected bytes have reached the target's queue, or passed ones the
/// source's. The kernel's worker needs less than the first; where it is short of memory it may need long, and a host full of
/// such flows must not spend itself on looking.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(128);

/// When to look a last time after everything seemed to be carried: a segment may have been passed at the very moment
/// that the verdict was told so. It has long been counted by then.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Userspace's share of one flow.
pub(super) struct SlowPath<'a> {
    tracks: &'a Sides<Track<'a>>,
    sockets: Sides<&'a Socket>,
    watch: &'a Watch,
    flow: u64,
    shares: Sides<Share>,
    windows: Sides<Option<Window<'a>>>,
    last_look: Option<Instant>,
}

/// Userspace's share of one direction.
#[derive(Default)]
struct Share {
    /// Of the passed bytes, those read from the source.
    read: u64,
    /// Of those, what the target has not taken yet.
    rest: Option<(Buffer, Range<usize>)>,
    /// All that was redirected before is in the target's queue, so that ours may follow.
    in_turn: bool,
    /// The next pause, as far as it is within its bounds.
    pause: Duration,
    /// Whether bytes of the source are gone.
    gap: Gap,
}

enum Outcome {
    /// The source has no more, and the verdict knows.
    Calm,
    /// There may be more at once.
    More,
    /// To be looked at again after this time.
    Later(Duration),
    /// The watch tells when the target has room.
    Blocked,
    /// Bytes of the source are gone.
    Lost,
}

impl<'a> SlowPath<'a> {
    /// `windows`: those sources whose receive buffer is not somebody else's.
    pub(super) fn new(
        tracks: &'a Sides<Track<'a>>,
        sockets: Sides<&'a Socket>,
        windows: Sides<Option<Window<'a>>>,
        watch: &'a Watch,
        flow: u64,
    ) -> Self {
        Self { tracks, sockets, watch, flow, shares: Sides::default(), windows, last_look: None }
    }

    /// Moves what can be moved now, but for bytes of sides that are `held`. Some: come back after that time even if nothing
    /// happens.
    pub(super) fn carry(
        &mut self,
        teardown: &mut TeardownDriver,
        held: Sides<bool>,
    ) -> io::Result<Option<Duration>> {
        let mut again = None;
        for side in Side::BOTH.into_iter().filter(|side| !held[*side]) {
            let direction = self.tracks[side].read();
            let behind = self.shares[side].waits(&direction);
            if let Some(window) = &mut self.windows[side] {
                window.look(&direction, behind)?;
            }
            if !behind {
                continue;
            }
            again = match self.carry_one(side, teardown)? {
                Outcome::More => Some(Duration::ZERO),
                Outcome::Later(time) => earlier(again, Some(time)),
                Outcome::Blocked => again,
                Outcome::Lost => {
                    teardown.lose();
                    again
                }
                Outcome::Calm => {
                    self.last_look = Some(Instant::now() + LAST_LOOK);
                    again
                }
            };
        }
        let last_look = self.last_look.map(|at| at.saturating_duration_since(Instant::now()));
        self.last_look = self.last_look.filter(|_| last_look.is_some_and(|left| !left.is_zero()));
        Ok(earlier(again, last_look.filter(|left| !left.is_zero())))
    }

    fn carry_one(&mut self, side: Side, teardown: &TeardownDriver) -> io::Result<Outcome> {
        if !self.shares[side].in_turn && !self.begin(side, teardown)? {
            return Ok(self.later(side));
        }
        let credit = self.tracks[side].read().credit;
        for _ in 0..TURN {
            if !self.write_rest(side)? {
                // Sets the bell: the next look of the poller finds the target full, and rings when it no longer is.
                self.watch.again(self.sockets[side.other()], self.flow)?;
                return Ok(Outcome::Blocked);
            }
            match self.may_read(side, teardown)? {
                Access::Read => {}
                Access::Wait(time) => return Ok(Outcome::Later(time)),
                Access::Lost => return Ok(Outcome::Lost),
            }
            if !self.read_some(side, credit)? {
                return self.hand_back(side);
            }
        }
        Ok(Outcome::More)
    }

    /// Bytes that were redirected before ours stand in the kernel's queue: ours must not overtake them. Says whether
    /// they are through.
    fn begin(&mut self, side: Side, teardown: &TeardownDriver) -> io::Result<bool> {
        // Bytes wait, so that the verdict redirects no more: only a look that is taken now shows all that it did.
        let direction = self.tracks[side].read();
        let target = self.sockets[side.other()];
        let before = direction.redirected.saturating_add(direction.beside);
        let before = before.saturating_add(self.shares[side].read);
        if teardown.written(side.other(), &sys::reading(target)?) < before {
            return Ok(false);
        }
        sys::limit_unsent(target, (direction.credit / 2).clamp(UNSENT_MIN, UNSENT_MAX))?;
        self.shares[side].in_turn = true;
        Ok(true)
    }

    /// Says whether there is nothing left to write.
    fn write_rest(&mut self, side: Side) -> io::Result<bool> {
        let mut target = self.sockets[side.other()];
        let share = &mut self.shares[side];
        let Some((mut buffer, mut range)) = share.rest.take() else { return Ok(true) };
        let count = ready(target.write(buffer.bytes().get(range.clone()).unwrap_or_default()))?;
        range.start += count;
        if !range.is_empty() {
            share.rest = Some((buffer, range));
        }
        Ok(share.rest.is_none())
    }

    fn may_read(&mut self, side: Side, teardown: &TeardownDriver) -> io::Result<Access> {
        let (tracks, source) = (self.tracks, self.sockets[side]);
        teardown.may_read(&mut self.shares[side].gap, side, source, || tracks[side].read().seen())
    }

    /// Says whether there was anything to read.
    fn read_some(&mut self, side: Side, credit: u64) -> io::Result<bool> {
        let mut source = self.sockets[side];
        let mut buffer = Buffer::take();
        let most = usize::try_from(credit.max(UNSENT_MIN)).unwrap_or(usize::MAX).min(buffer.bytes().len());
        let count = ready(source.read(buffer.bytes().get_mut(..most).unwrap_or_default()))?;
        let share = &mut self.shares[side];
        share.read += count as u64;
        if count > 0 {
            share.pause = Duration::ZERO;
        } else {
            share.gap.nothing_read();
        }
        share.rest = Some((buffer, 0..count)).filter(|_| count > 0);
        Ok(count > 0)
    }

    fn hand_back(&mut self, side: Side) -> io::Result<Outcome> {
        // Before the verdict goes on: its redirects are writes that must never find the target full.
        sys::limit_unsent(self.sockets[side.other()], u64::from(u32::MAX))?;
        let read = self.shares[side].read;
        self.tracks[side].set_taken(read);
        self.shares[side].in_turn = false;
        // More may be on its way to the queue, or lost with a connection that was reset.
        let more = self.tracks[side].read().passed > read;
        Ok(if more { self.later(side) } else { Outcome::Calm })
    }

    fn later(&mut self, side: Side) -> Outcome {
        let share = &mut self.shares[side];
        let pause = share.pause.clamp(PAUSE_MIN, PAUSE_MAX);
        share.pause = pause * 2;
        Outcome::Later(pause)
    }
}

impl Share {
    fn waits(&self, direction: &Direction) -> bool {
        self.in_turn || self.rest.is_some() || direction.passed > self.read
    }
}

/// Errors that need no answer of their own: the socket is not ready, or its peer has ended the connection, which the
/// ending finds out by itself.
pub(super) fn ready(result: io::Result<usize>) -> io::Result<usize> {
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
