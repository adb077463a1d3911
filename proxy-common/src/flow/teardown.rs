//! When a flow that the kernel carries has come to its end: what to pass on, and when it is safe to.
//!
//! Userspace sees no byte of such a flow. It sees, when woken, a [`Look`] at both sockets, and this machine says
//! what to do next. Flows that userspace copies end by the same rules. The arithmetic is exact, because a FIN that overtakes the kernel's queue cuts the stream:
//!
//! - `bytes_acked` of a socket counts the SYN that we sent, if we did, and our FIN once it is acknowledged;
//!   `SIOCOUTQ` holds our FIN until then. So bytes written = acked + queued - what that sum was at the start - FIN.
//! - `bytes_received` counts the peer's FIN once it has arrived in order.
//! - A direction is drained when all that its source received, and what went past it, has been written to its target.
//!
//! (`include/uapi/linux/tcp.h`, `tcp_get_info` in `net/ipv4/tcp.c`, `tcp_ioctl`; Linux 5.10 to 6.18.)

use std::time::Duration;

use super::{End, Leg, Reading, Reason, Side, Sides};

/// First and longest pause between two looks while something is about to happen.
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A flow that we end in order must have moved nothing for this long, with nothing under way: a transfer that stops for a
/// moment would look complete. Longer than a retransmission and the next one (200 and 400 ms).
const QUIET: Duration = Duration::from_millis(700);

/// What both sockets and the verdict's counters say at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// One reading of each socket.
    pub legs: Sides<Reading>,
    /// What has been taken off each source. To be asked after `legs`.
    pub seen: Sides<Seen>,
    /// Bytes that each source's target was given past the source. To be asked after `legs`.
    pub beside: Sides<u64>,
}

/// What has been taken off a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen {
    /// Some may be waiting for userspace to read it.
    #[default]
    Unknown,
    /// So many bytes, and there is nothing left: counted by the verdict, or read by userspace to the end.
    Bytes(u64),
    /// The source has failed while userspace could not read on.
    Failed,
}

/// Bounds on waiting.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Without any progress, once one side has ended.
    pub half_close: Duration,
    /// For bytes that were received before a reset, or before we were told to close, to be acknowledged.
    pub flush: Duration,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again when a socket has news, and no later than after this time.
    Wait(Option<Duration>),
    /// All bytes are written to this socket: send FIN on it, then step again.
    ShutdownWrite(Side),
    /// Close both sockets: in order if `clean`, else with a reset.
    Finished {
        /// Why the flow ended.
        end: End,
        /// Everything was delivered, so that an orderly close tells no lie.
        clean: bool,
    },
}

/// One flow in the kernel's hands.
#[derive(Debug)]
pub struct Teardown {
    legs: Sides<Leg>,
    bounds: Bounds,
    fin_in: Sides<bool>,
    fin_out: Sides<bool>,
    first: Option<Side>,
    progress: [u64; 4],
    moved_at: Duration,
    pause: Duration,
    reset_at: Option<Duration>,
    closing: Option<Closing>,
    quiet: bool,
}

impl Teardown {
    /// A flow whose sockets stood at `legs` when the kernel took over. `now` is any steady clock.
    #[must_use]
    pub const fn new(legs: Sides<Leg>, bounds: Bounds, now: Duration) -> Self {
        Self {
            legs,
            bounds,
            fin_in: Sides::both(false),
            fin_out: Sides::both(false),
            first: None,
            progress: [0; 4],
            moved_at: now,
            pause: PAUSE_MIN,
            reset_at: None,
            closing: None,
            quiet: false,
        }
    }

    /// Bring the flow to its end from our side, for `reason`: in order if nothing has moved for 0.7 s (of an idle flow that is
    /// known), else with a reset after [`Bounds::flush`].
    pub const fn close(&mut self, now: Duration, reason: Reason) {
        if self.closing.is_none() {
            self.closing = Some(Closing { at: now, reason });
            self.pause = PAUSE_MIN;
        }
    }

    /// Whether a side has ended, as far as a step has seen, or was told of an end. Another machine would not know.
    #[must_use]
    pub fn has_ends(&self) -> bool {
        self.fin_in.any(|ended| *ended) || self.fin_out.any(|ended| *ended)
    }

    /// Bytes that have been written to the socket of `side`, as of `reading`.
    #[must_use]
    pub fn written(&self, side: Side, reading: &Reading) -> u64 {
        self.legs[side].written(reading, self.fin_out[side])
    }

    /// Bytes that the peer of `side` may have got, as of the last `reading`: those written, or what of them was sent before a
    /// reset. The kernel then throws away what was not acknowledged, our end among it (`tcp_reset` in `net/ipv4/tcp_input.c`),
    /// so that what is left is less than the peer may have read.
    #[must_use]
    pub fn given(&self, side: Side, reading: &Reading) -> u64 {
        let syn = u64::from(side == Side::Upstream);
        self.legs[side].given(reading, self.fin_out[side], syn)
    }

    /// Bytes that the socket of `side` has received, as of `reading`, if no FIN is among them.
    #[must_use]
    pub fn received(&self, side: Side, reading: &Reading) -> u64 {
        self.legs[side].received(reading, false)
    }

    /// What to do, given what the sockets say at `now`.
    pub fn step(&mut self, now: Duration, look: &Look) -> Step {
        self.note_progress(now, look);
        let (mut lost, mut unsettled) = (None, None);
        for side in Side::BOTH {
            match self.source(side, look) {
                Source::Open => {}
                Source::Unsettled => unsettled = unsettled.or(Some(side)),
                Source::Lost => lost = lost.or(Some(side)),
            }
        }
        if lost.is_none() && unsettled.is_some() {
            if now.saturating_sub(self.moved_at) < self.bounds.flush {
                return self.wait(now, true);
            }
            lost = unsettled;
        }
        if let Some(side) = lost {
            return self.after_reset(side, now, look);
        }
        if let Some(closing) = self.closing {
            return self.while_closing(closing, now, look);
        }
        self.pass_ends_on(now, look)
    }

    fn source(&mut self, side: Side, look: &Look) -> Source {
        let reading = &look.legs[side];
        if !reading.is_closed() {
            if reading.fin_received() {
                self.ended(side);
            }
            return Source::Open;
        }
        if !self.fin_in[side] {
            // A closed socket no longer says how it got there. The byte counts do: a FIN adds one, a reset none.
            let seen = match look.seen[side] {
                Seen::Unknown => return Source::Open,
                Seen::Bytes(seen) => seen,
                Seen::Failed => {
                    self.first.get_or_insert(side);
                    return Source::Lost;
                }
            };
            match self.legs[side].received(reading, false).saturating_sub(seen) {
                0 => {
                    self.first.get_or_insert(side);
                    return Source::Lost;
                }
                1 => self.ended(side),
                // The last segment has not been through the verdict yet.
                _ => return Source::Unsettled,
            }
        }
        if self.fin_out[side] && reading.queued == 0 { Source::Open } else { Source::Lost }
    }

    fn ended(&mut self, side: Side) {
        if !self.fin_in[side] {
            self.fin_in[side] = true;
            self.first.get_or_insert(side);
            self.pause = PAUSE_MIN;
        }
    }

    /// All that `source` has received, and what went past it, is written to the other socket.
    pub(super) fn drained(&self, source: Side, look: &Look) -> bool {
        let target = source.other();
        self.written(target, &look.legs[target])
            == self.legs[source]
                .received(&look.legs[source], self.fin_in[source])
                .saturating_add(look.beside[source])
    }

    fn acknowledged(&self, side: Side, look: &Look) -> bool {
        let reading = &look.legs[side];
        reading.queued == 0 || reading.is_closed()
    }

    /// TCP delivers what came before a reset where it can: give the other side time to take it.
    fn after_reset(&mut self, side: Side, now: Duration, look: &Look) -> Step {
        let since = *self.reset_at.get_or_insert(now);
        let other = side.other();
        let other_closed = look.legs[other].is_closed();
        let delivered = self.drained(side, look) && self.acknowledged(other, look);
        if other_closed || delivered || now.saturating_sub(since) >= self.bounds.flush {
            return Step::Finished { end: self.end(Reason::Reset(side)), clean: false };
        }
        self.wait(now, true)
    }

    fn while_closing(&mut self, Closing { at, reason }: Closing, now: Duration, look: &Look) -> Step {
        let rested = matches!(reason, Reason::IdleTimeout);
        self.quiet |= (rested || now.saturating_sub(self.moved_at.max(at)) >= QUIET)
            && Side::BOTH.into_iter().all(|side| self.drained(side, look));
        for side in Side::BOTH {
            let target = side.other();
            if self.quiet && !self.fin_out[target] && self.drained(side, look) {
                self.fin_out[target] = true;
                return Step::ShutdownWrite(target);
            }
        }
        let sent = self.fin_out == Sides::both(true);
        let done = sent && Side::BOTH.into_iter().all(|side| self.acknowledged(side, look));
        if done || now.saturating_sub(at) >= self.bounds.flush {
            // Our doing, whichever side answers it first.
            return Step::Finished { end: End { reason, side: None }, clean: done };
        }
        self.wait(now, true)
    }

    fn pass_ends_on(&mut self, now: Duration, look: &Look) -> Step {
        let mut pending = false;
        for side in Side::BOTH {
            let target = side.other();
            if self.fin_in[side] && !self.fin_out[target] {
                if self.drained(side, look) {
                    self.fin_out[target] = true;
                    return Step::ShutdownWrite(target);
                }
                pending = true;
            }
        }
        if self.fin_out == Sides::both(true) {
            if Side::BOTH.into_iter().all(|side| self.acknowledged(side, look)) {
                return Step::Finished { end: self.end(Reason::Eof), clean: true };
            }
            pending = true;
        }
        self.wait(now, pending)
    }

    fn wait(&mut self, now: Duration, pending: bool) -> Step {
        let ending = pending || self.fin_in.any(|ended| *ended);
        if !ending {
            return Step::Wait(None);
        }
        let idle = now.saturating_sub(self.moved_at);
        let Some(left) = self.bounds.half_close.checked_sub(idle).filter(|left| !left.is_zero()) else {
            return Step::Finished { end: self.end(Reason::HalfCloseTimeout), clean: false };
        };
        if !pending {
            return Step::Wait(Some(left));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Step::Wait(Some(pause.min(left)))
    }

    fn note_progress(&mut self, now: Duration, look: &Look) {
        let Sides { client, upstream } = look.legs;
        let progress = [client.acked, client.received, upstream.acked, upstream.received];
        if progress != self.progress {
            self.progress = progress;
            self.moved_at = now;
            self.pause = PAUSE_MIN;
        }
    }

    const fn end(&self, reason: Reason) -> End {
        End::new(reason, self.first)
    }
}

/// We are to end the flow.
#[derive(Debug, Clone, Copy)]
struct Closing {
    at: Duration,
    reason: Reason,
}

enum Source {
    Open,
    /// The socket is gone other than by an orderly close of both directions.
    Lost,
    /// The verdict has not seen the last segment: look again.
    Unsettled,
}

#[cfg(test)]
#[path = "teardown_tests.rs"]
mod tests;
