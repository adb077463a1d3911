//! How soon BPF programs that somebody else removes are attached again: at once the first times, then later and later. An agent that
//! removes them whenever it sees them would win anyway, and each time connections are offloaded only to be reset.

use core::time::Duration;

/// So many removals in a row are answered at once.
const AT_ONCE: u32 = 3;

/// The first and the longest pause after that.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(8);

/// After this time without a removal they count from the beginning.
const CALM: Duration = Duration::from_secs(60);

/// Removals in a row, at one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removals(u32);

impl Removals {
    /// One more, so long after the last one. Says how long to wait before the programs are attached again.
    pub fn note(&mut self, since_last: Duration) -> Duration {
        if since_last >= CALM {
            self.0 = 0;
        }
        self.0 = self.0.saturating_add(1);
        let Some(late) = self.0.checked_sub(AT_ONCE + 1) else { return Duration::ZERO };
        let factor = 1_u32.checked_shl(late).unwrap_or(u32::MAX);
        FIRST.saturating_mul(factor).min(LONGEST)
    }

    /// Whether they go on, so long after the last one.
    #[must_use]
    pub fn go_on(self, since_last: Duration) -> bool {
        self.0 > AT_ONCE && since_last < CALM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(250);

    #[test]
    fn the_first_removals_are_answered_at_once_and_more_of_them_later_and_later() {
        let mut removals = Removals::default();
        let waits = [SOON; 8].map(|since| removals.note(since).as_secs());
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 8]);
        for _ in 0..100 {
            assert_eq!(removals.note(SOON), LONGEST);
        }
    }

    #[test]
    fn after_a_calm_time_they_are_answered_at_once_again() {
        let mut removals = Removals::default();
        for _ in 0..9 {
            removals.note(SOON);
        }
        assert!(removals.go_on(SOON) && !removals.go_on(CALM));
        assert_eq!(removals.note(CALM), Duration::ZERO);
        assert!(!removals.go_on(SOON));
    }
}
