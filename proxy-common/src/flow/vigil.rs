//! What no socket tells by itself: a peer that vanished while it owed an answer, and a kernel that no longer carries what it
//! was given to carry. Both show only to who looks now and then.

use std::time::Duration;

use super::{Look, Reason, Side, Splice};

/// Bytes may stand between two sockets for this long though the target's queue is empty: the kernel's worker runs within
/// milliseconds, on a host that is not starved.
const STUCK: Duration = Duration::from_secs(3);

/// Looks after one flow.
#[derive(Debug)]
pub struct Vigil {
    silence: Duration,
    in_kernel: bool,
    /// Of each source: bytes written to its target when it was first found stuck, and when that was.
    stuck: [Option<(u64, Duration)>; 2],
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Nothing. Some: but look again after this time.
    None(Option<Duration>),
    /// The flow cannot go on: reset it.
    End(Reason),
}

impl Vigil {
    /// For a flow whose peers may be silent for `silence` while they owe an answer. `in_kernel`: carried by the kernel, so
    /// that a foreign hand can take it out there.
    #[must_use]
    pub const fn new(silence: Duration, in_kernel: bool) -> Self {
        Self { silence, in_kernel, stuck: [None; 2] }
    }

    /// To be asked with a look that `splice` has made its step for.
    pub fn check(&mut self, now: Duration, look: &Look, splice: &Splice) -> Alarm {
        for (side, leg) in Side::BOTH.into_iter().zip(&look.legs) {
            if !leg.closed() && leg.silent >= self.silence {
                return Alarm::End(Reason::PeerTimeout(side));
            }
        }
        let mut again = None;
        for source in Side::BOTH {
            let Some(since) = self.stuck_since(source, now, look, splice) else { continue };
            let left = STUCK.saturating_sub(now.saturating_sub(since));
            if left.is_zero() {
                return Alarm::End(Reason::KernelLost);
            }
            again = Some(again.map_or(left, |other: Duration| other.min(left)));
        }
        Alarm::None(again)
    }

    /// Stuck: bytes have been received that are not written to the target, and its queue is empty, so that nothing keeps
    /// the kernel from writing them, nor us those that it left to us.
    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn stuck_since(&mut self, source: Side, now: Duration, look: &Look, splice: &Splice) -> Option<Duration> {
        let target = source.other();
        let leg = &look.legs[target.index()];
        let stuck = &mut self.stuck[source.index()];
        if !self.in_kernel || leg.queued > 0 || splice.drained(source, look) {
            *stuck = None;
            return None;
        }
        let written = splice.written(target, leg);
        match stuck {
            Some((before, since)) if *before == written => Some(*since),
            _ => {
                *stuck = Some((written, now));
                Some(now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Bounds, Leg, Reading, Seen};

    const SILENCE: Duration = Duration::from_secs(65);
    const OPEN: u8 = 1;

    fn leg(received: u64, written: u64, queued: u64) -> Reading {
        Reading { state: OPEN, acked: written - queued, received, queued, silent: Duration::ZERO }
    }

    fn look(client: Reading, upstream: Reading) -> Look {
        Look {
            legs: [client, upstream],
            seen: [Seen::Bytes(client.received), Seen::Bytes(upstream.received)],
            beside: [0; 2],
        }
    }

    /// A flow of which nothing is carried yet.
    fn flow(in_kernel: bool) -> (Vigil, Splice) {
        let bounds = Bounds { half_close: Duration::from_secs(60), flush: Duration::from_secs(1) };
        let legs = [Leg::at(&leg(0, 0, 0)), Leg::at(&leg(0, 0, 0))];
        (Vigil::new(SILENCE, in_kernel), Splice::new(legs, bounds, Duration::ZERO))
    }

    fn check_at(seconds: u64, look: &Look, (vigil, splice): &mut (Vigil, Splice)) -> Alarm {
        let now = Duration::from_secs(seconds);
        let _ = splice.step(now, look);
        vigil.check(now, look, splice)
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
        assert_eq!(check_at(7, &look, &mut flow), Alarm::None(Some(STUCK)));
        assert_eq!(check_at(9, &look, &mut flow), Alarm::None(Some(Duration::from_secs(1))));
        assert_eq!(check_at(10, &look, &mut flow), Alarm::End(Reason::KernelLost));
    }

    #[test]
    fn one_direction_is_found_lost_however_busy_the_other_is() {
        let mut flow = flow(true);
        let busy = |bytes| look(leg(10, bytes, 0), leg(bytes, 4, 0));
        assert_eq!(check_at(0, &busy(1), &mut flow), Alarm::None(Some(STUCK)));
        assert_eq!(check_at(3, &busy(9), &mut flow), Alarm::End(Reason::KernelLost));
    }

    #[test]
    fn a_target_that_does_not_read_and_one_that_moves_on_are_not_stuck() {
        let mut flow = flow(true);
        let stalled = look(leg(10, 0, 0), leg(0, 4, 4));
        assert_eq!(check_at(0, &stalled, &mut flow), Alarm::None(None));
        assert_eq!(check_at(100, &stalled, &mut flow), Alarm::None(None));
        for written in 1..100 {
            let slow = look(leg(1000, 0, 0), leg(0, written, 0));
            assert_eq!(check_at(100 + 10 * written, &slow, &mut flow), Alarm::None(Some(STUCK)));
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
