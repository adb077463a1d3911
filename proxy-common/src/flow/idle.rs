//! When a flow on which nothing moves has rested for too long.

use std::time::Duration;

/// Watches one flow. It costs nothing while bytes move: who carries them knows when the last one did, and is asked only at the
/// earliest moment at which the flow could have rested for long enough.
#[derive(Debug)]
pub struct Idle {
    limit: Option<Duration>,
    moved_at: Duration,
}

impl Idle {
    /// For a flow that begins at zero of the clock, and may rest for `limit`. Zero: for ever.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        let limit = if limit.is_zero() { None } else { Some(limit) };
        Self { limit, moved_at: Duration::ZERO }
    }

    /// How long the flow may rest on, if the last byte moved `rested` ago or later. None: for ever.
    #[must_use]
    pub fn left(&self, now: Duration, rested: Duration) -> Option<Duration> {
        let moved_at = self.moved_at.max(now.saturating_sub(rested));
        self.limit.map(|limit| (moved_at + limit).saturating_sub(now))
    }

    /// Learns that the last byte moved `rested` ago, and says whether the flow has rested for too long. Asked once more after
    /// that, it says no: a flow ends once.
    pub fn is_over(&mut self, now: Duration, rested: Duration) -> bool {
        self.moved_at = self.moved_at.max(now.saturating_sub(rested));
        let over = self.left(now, rested) == Some(Duration::ZERO);
        if over {
            self.limit = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_a_limit_a_flow_rests_for_ever() {
        let mut idle = Idle::new(Duration::ZERO);
        assert_eq!(idle.left(SECOND * 1_000_000, SECOND * 1_000_000), None);
        assert!(!idle.is_over(SECOND * 1_000_000, SECOND * 1_000_000));
    }

    #[test]
    fn the_time_counts_from_the_last_byte_and_from_the_beginning_without_one() {
        let mut idle = Idle::new(LIMIT);
        assert_eq!(idle.left(SECOND * 3, SECOND * 1000), Some(SECOND * 2));
        assert_eq!(idle.left(SECOND * 3, SECOND), Some(SECOND * 4));
        assert!(!idle.is_over(SECOND * 3, SECOND));
        assert_eq!(idle.left(SECOND * 4, SECOND * 1000), Some(SECOND * 3), "what was learnt is kept");
    }

    #[test]
    fn a_flow_is_over_once() {
        let mut idle = Idle::new(LIMIT);
        assert!(idle.is_over(LIMIT, LIMIT));
        assert!(!idle.is_over(LIMIT * 2, LIMIT * 2));
        assert_eq!(idle.left(LIMIT * 3, LIMIT * 3), None);
    }

    proptest! {
        /// A flow that is looked at whenever it asks for it ends at the limit after its last byte, and not before. What is
        /// known without a system call may be any part of the truth.
        #[test]
        fn a_busy_flow_is_never_over_and_an_idle_one_is_at_once(
            gaps in proptest::collection::vec((1_u64..5000, any::<bool>()), 0..100),
        ) {
            let mut idle = Idle::new(LIMIT);
            let moved: Vec<(Duration, bool)> = gaps.into_iter().scan(Duration::ZERO, |at, (gap, told)| {
                *at += Duration::from_millis(gap);
                Some((*at, told))
            }).collect();
            let rested = |now: Duration, all: bool| {
                let known = moved.iter().filter(|(at, told)| *at <= now && (all || *told)).map(|(at, _)| *at);
                now - known.max().unwrap_or_default()
            };
            let end = moved.last().map(|(at, _)| *at).unwrap_or_default() + LIMIT;
            let mut now = Duration::ZERO;
            loop {
                let left = idle.left(now, rested(now, false));
                prop_assert!(left.is_some_and(|left| left <= LIMIT));
                now += left.unwrap_or_default();
                if idle.left(now, rested(now, false)) == Some(Duration::ZERO) && idle.is_over(now, rested(now, true)) {
                    break;
                }
                prop_assert!(now < end, "still there at {now:?}, and the last byte was at {end:?}");
            }
            prop_assert_eq!(now, end);
        }
    }
}
