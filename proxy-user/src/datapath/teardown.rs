//! The end of a flow, the same for every datapath: ask the sockets, ask the pure machine, do what it says.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use proxy_common::flow::{
    Access, Alarm, Bounds, End, Gap, Idle, Leg, Liveness, Look, Reading, Reason, Seen, Side, Sides, Step,
    Teardown,
};
use socket2::SockRef;

use super::Carried;
use crate::hub::snapshot::Timeouts;
use crate::hub::{Bytes, Flow};
use crate::sys;

/// How long bytes that came before a reset, or before a stop, may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(1);

/// A flow that is younger needs no keepalive yet. Each is woken to look for itself more often than a peer may be silent.
const YOUNG: Duration = Duration::from_secs(1);

/// Brings one flow to its end.
pub(super) struct TeardownDriver {
    machine: Teardown,
    liveness: Liveness,
    in_kernel: bool,
    idle: Idle,
    /// To be set on the upstream connection once the flow has lived for [`YOUNG`]: most do not, and four system calls are not
    /// little for them.
    needs_keepalive: bool,
    begun: Instant,
    killed: bool,
    lost: bool,
    last: Look,
}

/// What the carrier has to do next.
pub(super) enum Next {
    /// Go on, and come back after this time even if nothing happens.
    Wait(Option<Duration>),
    /// The flow has ended. Its sockets are set to close as they should.
    Done(Carried),
}

impl TeardownDriver {
    /// For a flow whose sockets stand at `legs`.
    pub(super) fn new(timeouts: &Timeouts, legs: Sides<Leg>, in_kernel: bool) -> Self {
        let bounds = Bounds { half_close: timeouts.half_close, flush: FLUSH };
        Self {
            machine: Teardown::new(legs, bounds, Duration::ZERO),
            liveness: Liveness::new(timeouts.keepalive, in_kernel),
            in_kernel,
            idle: Idle::new(timeouts.idle),
            needs_keepalive: true,
            begun: Instant::now(),
            killed: false,
            lost: false,
            last: Look::default(),
        }
    }

    /// Starts to end the flow from our side, because the daemon stops.
    pub(super) fn close(&mut self) {
        self.machine.close(self.begun.elapsed(), Reason::Drain);
    }

    /// Does what the flow is to come to: its end at once, by a reset of both sides, where an operator wants that, or its end in
    /// order, where it has got sockets for nothing else.
    pub(super) fn execute(&mut self, flow: &Flow) {
        self.killed = flow.orders.are_to_kill();
        if let Some(reason) = flow.closing.get() {
            self.machine.close(self.begun.elapsed(), *reason);
        }
    }

    /// Whether a side is known to have ended, maybe before what reads from it has come to that: nobody else can bring the flow to its
    /// end then.
    pub(super) fn has_ends(&self) -> bool {
        self.machine.has_ends()
    }

    /// The next turn ends the flow: bytes of it are gone that the kernel had in its hands.
    pub(super) const fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether the socket of `side`, which is under the verdict, may be read. `seen`: asks what the verdict has counted.
    pub(super) fn may_read(
        &self,
        gap: &mut Gap,
        side: Side,
        socket: &impl AsFd,
        seen: impl FnOnce() -> u64,
    ) -> io::Result<Access> {
        let reading = sys::fresh_reading(socket)?;
        Ok(gap.check(self.begun.elapsed(), &reading, self.received(side, &reading), seen()))
    }

    /// Returns at the earliest moment at which the flow may have been idle for too long; never, if it may be. `rested`: for how
    /// long nothing has moved, as far as memory tells. That costs no system call while bytes move; the sockets have the last word
    /// in [`Self::turn`].
    pub(super) async fn idle(&self, rested: impl Fn() -> Duration) {
        loop {
            match self.idle.left(self.begun.elapsed(), rested()) {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Bytes written so far to the socket of `side`, by userspace or the kernel, as of `reading`.
    pub(super) fn written(&self, side: Side, reading: &Reading) -> u64 {
        self.machine.written(side, reading)
    }

    /// Bytes received so far by the socket of `side`, as of `reading`, where its peer has not ended.
    pub(super) fn received(&self, side: Side, reading: &Reading) -> u64 {
        self.machine.received(side, reading)
    }

    /// One turn. `counts`: [`Look::seen`] and [`Look::beside`], asked for after the sockets were.
    pub(super) fn turn<S: AsFd>(
        &mut self,
        sockets: Sides<&S>,
        counts: impl Fn() -> (Sides<Seen>, Sides<u64>),
    ) -> io::Result<Next> {
        self.keep_alive(sockets.upstream)?;
        let mut legs = readings(sockets)?;
        loop {
            let (seen, beside) = counts();
            let look = Look { legs, seen, beside };
            self.last = look;
            if self.killed {
                return self.finish(sockets, End { reason: Reason::Killed, side: None }, false);
            }
            if self.lost {
                return self.finish(sockets, End { reason: Reason::KernelLost, side: None }, false);
            }
            let step = self.machine.step(self.begun.elapsed(), &look);
            if matches!(step, Step::Wait(_)) && self.idle.is_over(self.begun.elapsed(), self.rested()) {
                self.machine.close(self.begun.elapsed(), Reason::IdleTimeout);
                continue;
            }
            match step {
                Step::Wait(limit) => match self.liveness.check(self.begun.elapsed(), &look, &self.machine) {
                    Alarm::None(again) => return Ok(Next::Wait(earlier(limit, again))),
                    Alarm::End(reason) => {
                        return self.finish(sockets, End { reason, side: reason.side() }, false);
                    }
                },
                Step::ShutdownWrite(side) => {
                    shutdown_write(sockets[side])?;
                    legs[side] = sys::reading(sockets[side])?;
                }
                Step::Finished { end, clean } => return self.finish(sockets, end, clean),
            }
        }
    }

    fn finish<S: AsFd>(&mut self, sockets: Sides<&S>, end: End, clean: bool) -> io::Result<Next> {
        let end = name_timeout(end, sockets);
        for side in Side::BOTH {
            let (socket, leg) = (sockets[side], &mut self.last.legs[side]);
            if leg.is_closed() {
                // What it says is final, and closing it does nothing any more.
                continue;
            }
            if self.in_kernel {
                // An acknowledgement between the two questions of a reading makes it too small. Nothing is on its way any more,
                // so that the answers are final now.
                *leg = sys::reading(socket)?;
            }
            sys::reset_on_close(socket, !clean)?;
        }
        Ok(Next::Done(Carried { end, bytes: self.bytes() }))
    }

    fn keep_alive<S: AsFd>(&mut self, upstream: &S) -> io::Result<()> {
        if !self.needs_keepalive || self.begun.elapsed() < YOUNG {
            return Ok(());
        }
        self.needs_keepalive = false;
        sys::keep_alive(upstream, self.liveness.silence())
    }

    /// For how long no byte had moved as of the last turn, whoever moved it.
    pub(super) fn rested(&self) -> Duration {
        let Sides { client, upstream } = &self.last.legs;
        client.rested.min(upstream.rested)
    }

    /// Bytes given to each peer, as of the last turn; client to upstream first.
    pub(super) fn bytes(&self) -> Bytes {
        let Sides { client, upstream } = &self.last.legs;
        [self.machine.given(Side::Upstream, upstream), self.machine.given(Side::Client, client)]
    }
}

/// Of both sockets.
pub(super) fn readings<S: AsFd>(sockets: Sides<&S>) -> io::Result<Sides<Reading>> {
    Ok(Sides::new(sys::reading(sockets.client)?, sys::reading(sockets.upstream)?))
}

/// The shorter of two waits, none of which may be one.
pub(super) fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

fn shutdown_write(socket: &impl AsFd) -> io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Write) {
        // Its peer has reset in the meantime: the next look will tell.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// A peer that vanished looks like one that reset, but for the error that its socket keeps.
fn name_timeout<S: AsFd>(end: End, sockets: Sides<&S>) -> End {
    let Reason::Reset(side) = end.reason else { return end };
    match sys::error(sockets[side]).map(|error| error.kind()) {
        Some(io::ErrorKind::TimedOut) => End { reason: Reason::PeerTimeout(side), ..end },
        _ => end,
    }
}
