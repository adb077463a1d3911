//! Whether a flow that nobody looks after may be forgotten.

use core::time::Duration;

use super::seq_validation::{is_acknowledged, is_over};
use crate::abi::packet::{Entry, state};

/// For how long a flow may rest without a daemon, where there is no bound to rest: an end that has gone without a word is found
/// by the other one's keepalive, which is sent every 2 hours if nobody has set it otherwise, and then there is a reset. So a
/// flow without a packet for a day has no such ends, and most likely none at all.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// For how long a flow that is over is kept.
pub const LINGER: Duration = Duration::from_secs(10);

/// The clock of the entries wraps round every 49 days: longer than this it cannot be told how old something is.
const LONGEST: Duration = Duration::from_secs(20 * 24 * 3600);

/// Without a packet for as many milliseconds a flow is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// Any flow.
    pub idle: u32,
    /// One of which a side has ended.
    pub half_close: u32,
    /// One that is over.
    pub linger: u32,
}

impl Limits {
    /// From the bounds that a daemon keeps to. No bound to rest is zero.
    #[must_use]
    pub fn new(idle: Duration, half_close: Duration) -> Self {
        let idle = if idle.is_zero() { DAY } else { idle };
        let [idle, half_close, linger] = [idle, half_close, LINGER].map(milliseconds);
        Self { idle, half_close, linger }
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.min(LONGEST).as_millis()).unwrap_or(u32::MAX)
}

/// Whether the flow with these entries is to be forgotten at `now_ms` of their clock.
#[must_use]
#[inline(always)]
pub const fn is_due(one: &Entry, other: &Entry, now_ms: u32, limits: &Limits) -> bool {
    let (age, other_age) = (since(one.active_ms, now_ms), since(other.active_ms, now_ms));
    let rested = if age < other_age { age } else { other_age };
    let is_dead = one.state == state::DEAD || other.state == state::DEAD;
    let limit = if is_dead || is_over(one, other) {
        limits.linger
    } else if is_acknowledged(one, other) || is_acknowledged(other, one) {
        limits.half_close
    } else {
        limits.idle
    };
    rested >= limit
}

/// A packet may have come after the clock was read.
#[inline(always)]
const fn since(then_ms: u32, now_ms: u32) -> u32 {
    let age = now_ms.wrapping_sub(then_ms);
    if age.cast_signed() < 0 { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::packet::flag;

    const LIMITS: Limits = Limits { idle: 1000, half_close: 100, linger: 10 };

    fn entry(active_ms: u32) -> Entry {
        Entry { state: state::FORWARD, active_ms, ..Entry::default() }
    }

    #[test]
    fn a_flow_lives_as_long_as_one_end_speaks() {
        let (silent, talkative) = (entry(u32::MAX - 500), entry(600));
        assert!(!is_due(&silent, &talkative, 1599, &LIMITS));
        assert!(!is_due(&talkative, &silent, 1599, &LIMITS));
        assert!(is_due(&silent, &talkative, 1600, &LIMITS));
        assert!(is_due(&silent, &silent, 499, &LIMITS), "the clock has wrapped round");
        assert!(!is_due(&talkative, &silent, 590, &LIMITS), "a packet that came after the clock was read");
    }

    #[test]
    fn one_that_has_ended_is_forgotten_sooner() {
        let ended = Entry { ended: flag::FIN, fin: 7, ..entry(0) };
        let open = Entry { acked: 7, ..entry(0) };
        assert!(!is_due(&ended, &open, 100, &LIMITS), "a word that nobody has acknowledged");
        let knows = Entry { acked: 8, ..open };
        assert!(!is_due(&ended, &knows, 99, &LIMITS) && is_due(&knows, &ended, 100, &LIMITS));
        let reset = Entry { reset: flag::RST, ..entry(0) };
        assert!(!is_due(&reset, &open, 9, &LIMITS) && is_due(&open, &reset, 10, &LIMITS));
        let dead = Entry { state: state::DEAD, ..entry(0) };
        assert!(is_due(&open, &dead, 10, &LIMITS));
    }

    #[test]
    fn bounds_are_those_of_the_daemon_as_far_as_the_clock_goes() {
        let limits = Limits::new(Duration::ZERO, Duration::from_secs(60));
        assert_eq!((limits.idle, limits.half_close, limits.linger), (86_400_000, 60_000, 10_000));
        let limits = Limits::new(Duration::from_secs(1 << 40), Duration::from_millis(5));
        assert_eq!((limits.idle, limits.half_close), (1_728_000_000, 5));
        assert!(limits.idle.cast_signed() > 0);
    }
}
