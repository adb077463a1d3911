//! What no socket tells by itself: a peer that vanished while it owed an answer, and a kernel that no longer carries what it
//! was given to carry. Both show only to who looks now and then.

use std::time::Duration;

use super::{Look, Reason, Side, Sides, Teardown};

/// A direction is stuck when it was found so at first, and then so many times again, each this long after the one before. The
/// kernel's worker runs within milliseconds. Several looks, because a host that was stopped for a while (a virtual machine
/// that moves) makes one gap long, but leaves the worker no time.
const LOOKS: u32 = 3;
const APART: Duration = Duration::from_secs(1);

/// Looks after one flow.
#[derive(Debug)]
pub struct Liveness {
    silence: Duration,
    in_kernel: bool,
    /// Of each source.
    stuck: Sides<Option<Stuck>>,
}

/// A direction in which nothing moves, though something could.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    /// Bytes written to the target.
    written: u64,
    /// How often it was found so again.
    looks: u32,
    /// When the next look counts.
    next: Duration,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Nothing. Some: but look again after this time.
    None(Option<Duration>),
    /// The flow cannot go on: reset it.
    End(Reason),
}

impl Liveness {
    /// For a flow whose peers may be silent for `silence` while they owe an answer. `in_kernel`: carried by the kernel, so
    /// that a foreign hand can take it out there.
    #[must_use]
    pub const fn new(silence: Duration, in_kernel: bool) -> Self {
        Self { silence, in_kernel, stuck: Sides::both(None) }
    }

    /// For how long a peer may be silent while it owes an answer.
    pub const fn silence(&self) -> Duration {
        self.silence
    }

    /// To be asked with a look that `splice` has made its step for.
    pub fn check(&mut self, now: Duration, look: &Look, teardown: &Teardown) -> Alarm {
        for side in Side::BOTH {
            let leg = &look.legs[side];
            if !leg.is_closed() && leg.silent >= self.silence {
                return Alarm::End(Reason::PeerTimeout(side));
            }
        }
        let mut again = None;
        for source in Side::BOTH {
            let Some(stuck) = self.stuck(source, now, look, teardown) else { continue };
            if stuck.looks >= LOOKS {
                return Alarm::End(Reason::KernelLost);
            }
            let left = stuck.next.saturating_sub(now);
            again = Some(again.map_or(left, |other: Duration| other.min(left)));
        }
        Alarm::None(again)
    }

    /// Stuck: bytes have been received that are not written to the target, and its queue is empty, so that nothing keeps
    /// the kernel from writing them, nor us those that it left to us.
    fn stuck(&mut self, source: Side, now: Duration, look: &Look, teardown: &Teardown) -> Option<Stuck> {
        let target = source.other();
        let leg = &look.legs[target];
        let known = &mut self.stuck[source];
        if !self.in_kernel || leg.queued > 0 || teardown.drained(source, look) {
            *known = None;
            return None;
        }
        let written = teardown.written(target, leg);
        let next = now + APART;
        *known = Some(match *known {
            Some(before) if before.written == written && now < before.next => before,
            Some(before) if before.written == written => Stuck { looks: before.looks + 1, next, ..before },
            _ => Stuck { written, looks: 0, next },
        });
        *known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Bounds, Leg, Reading, Seen};

    const SILENCE: Duration = Duration::from_secs(65);
    const OPEN: u8 = 1;

    fn leg(received: u64, written: u64, queued: u64) -> Reading {
        Reading { state: OPEN, acked: written - queued, received, queued, ..Reading::default() }
    }

    fn look(client: Reading, upstream: Reading) -> Look {
        Look {
            legs: Sides::new(client, upstream),
            seen: Sides::new(client, upstream).map(|leg| Seen::Bytes(leg.received)),
            beside: Sides::both(0),
        }
    }

    /// A flow of which nothing is carried yet.
    fn flow(in_kernel: bool) -> (Liveness, Teardown) {
        let bounds = Bounds { half_close: Duration::from_secs(60), flush: Duration::from_secs(1) };
        let legs = Sides::both(Leg::from_start(&leg(0, 0, 0), 0));
        (Liveness::new(SILENCE, in_kernel), Teardown::new(legs, bounds, Duration::ZERO))
    }

    fn check_at(seconds: u64, look: &Look, (liveness, teardown): &mut (Liveness, Teardown)) -> Alarm {
        let now = Duration::from_secs(seconds);
        let _ = teardown.step(now, look);
        liveness.check(now, look, teardown)
    }

    #[test]
    fn a_quiet_flow_raises_no_alarm_and_sets_no_timer() {
        let mut flow = flow(true);
        let look = look(leg(10, 20, 0), leg(20, 10, 0));
        for seconds in [0, 5, 1_000_000] {
            assert_eq!(check_at(seconds, &look, &mut flow), Alarm::None(None));
        }
    }

    #[test]
    fn bytes_that_go_nowhere_while_nothing_is_in_their_way_are_lost() {
        let mut flow = flow(true);
        let look = look(leg(10, 0, 0), leg(0, 4, 0));
        for seconds in [7, 7, 7, 7, 8, 9, 9] {
            assert_eq!(check_at(seconds, &look, &mut flow), Alarm::None(Some(APART)));
        }
        assert_eq!(check_at(10, &look, &mut flow), Alarm::End(Reason::KernelLost));
    }

    #[test]
    fn one_direction_is_found_lost_however_busy_the_other_is() {
        let mut flow = flow(true);
        let busy = |bytes| look(leg(10, bytes, 0), leg(bytes, 4, 0));
        for seconds in 0..3 {
            assert_eq!(check_at(seconds, &busy(seconds), &mut flow), Alarm::None(Some(APART)));
        }
        assert_eq!(check_at(3, &busy(9), &mut flow), Alarm::End(Reason::KernelLost));
    }

    #[test]
    fn a_host_that_was_stopped_for_long_gets_time_to_go_on() {
        let mut flow = flow(true);
        let waiting = look(leg(10, 0, 0), leg(0, 4, 0));
        assert_eq!(check_at(0, &waiting, &mut flow), Alarm::None(Some(APART)));
        assert_eq!(check_at(1000, &waiting, &mut flow), Alarm::None(Some(APART)));
        assert_eq!(check_at(1001, &look(leg(10, 0, 0), leg(0, 10, 0)), &mut flow), Alarm::None(None));
    }

    #[test]
    fn a_target_that_does_not_read_and_one_that_moves_on_are_not_stuck() {
        let mut flow = flow(true);
        let stalled = look(leg(10, 0, 0), leg(0, 4, 4));
        assert_eq!(check_at(0, &stalled, &mut flow), Alarm::None(None));
        assert_eq!(check_at(100, &stalled, &mut flow), Alarm::None(None));
        for written in 1..100 {
            let slow = look(leg(1000, 0, 0), leg(0, written, 0));
            assert_eq!(check_at(100 + 10 * written, &slow, &mut flow), Alarm::None(Some(APART)));
        }
    }

    #[test]
    fn what_userspace_copies_is_not_the_kernels_to_lose() {
        let mut flow = flow(false);
        let look = look(leg(10, 0, 0), leg(0, 4, 0));
        assert_eq!(check_at(0, &look, &mut flow), Alarm::None(None));
        assert_eq!(check_at(100, &look, &mut flow), Alarm::None(None));
    }

    #[test]
    fn a_peer_that_owes_an_answer_for_too_long_has_vanished() {
        let mut flow = flow(false);
        let with = |silent| look(leg(0, 0, 0), Reading { silent, ..leg(0, 4, 4) });
        assert_eq!(check_at(0, &with(SILENCE - Duration::from_millis(1)), &mut flow), Alarm::None(None));
        let end = Alarm::End(Reason::PeerTimeout(Side::Upstream));
        assert_eq!(check_at(0, &with(SILENCE), &mut flow), end);
    }
}
