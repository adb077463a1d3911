//! Whether a direction is fast enough for its source's window to grow: what a grown window brings waits in the proxy, if the
//! target is slow.

use core::time::Duration;

/// So many bytes within so long prove that a direction is fast: the window that it may grow to at once, 2 MB, is then
/// through in about ten seconds. The first credit and the first window, which come at any pace, are a quarter of it.
const BYTES: u64 = 1024 * 1024;
const TIME: Duration = Duration::from_secs(5);

/// And so many, if none of them had to wait for the target: a source that is far away cannot send more through a small window,
/// 96 KiB in each round trip.
const BYTES_AHEAD: u64 = BYTES / 4;

/// The pace of one direction, as far as it matters.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateGate {
    fast: bool,
    /// Bytes seen at the last mark, and when that was.
    seen: u64,
    at: Duration,
    /// Some bytes had to wait since then.
    behind: bool,
}

/// What has become of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// Fast: its source's window may grow.
    Fast,
    /// Slow: it may not.
    Slow,
}

impl RateGate {
    /// For a direction of which nothing is known at `now`: it counts as slow.
    #[must_use]
    pub const fn new(now: Duration) -> Self {
        Self { fast: false, seen: 0, at: now, behind: false }
    }

    /// Looks at a direction that has seen so many bytes in all. `behind`: some of them wait for the target, so that it is the
    /// target that sets the pace.
    pub fn look(&mut self, now: Duration, seen: u64, behind: bool) -> Option<Turned> {
        self.behind |= behind;
        let (gained, elapsed) = (seen.saturating_sub(self.seen), now.saturating_sub(self.at));
        let in_time = elapsed <= TIME;
        if in_time && gained < self.enough() {
            return None;
        }
        // A mark that is much older tells of a pause.
        let slow = behind && elapsed < 2 * TIME && gained < BYTES;
        (self.seen, self.at, self.behind) = (seen, now, behind);
        match (self.fast, in_time) {
            (false, true) => {
                self.fast = true;
                Some(Turned::Fast)
            }
            (true, false) if slow => {
                self.fast = false;
                Some(Turned::Slow)
            }
            _ => None,
        }
    }

    /// When so many bytes were seen, the next look is due. Slow directions are looked at all the time, as long as they are
    /// behind.
    #[must_use]
    pub const fn due(&self) -> Option<u64> {
        if self.fast { None } else { Some(self.seen.saturating_add(self.enough())) }
    }

    const fn enough(&self) -> u64 {
        if self.behind { BYTES } else { BYTES_AHEAD }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks at a direction every tenth of a second, and at once where one is due; what it turned to, and when.
    fn watch(
        proof: &mut RateGate,
        begin: Duration,
        first: u64,
        rate: u64,
        behind: bool,
    ) -> Option<(Turned, Duration)> {
        (1..200).find_map(|tenth| {
            let after = SECOND / 10 * tenth;
            let seen = first + rate * u64::from(tenth) / 10;
            proof.look(begin + after, seen, behind).map(|turned| (turned, after))
        })
    }

    #[test]
    fn a_burst_into_buffers_proves_nothing() {
        let mut proof = RateGate::new(Duration::ZERO);
        assert_eq!(watch(&mut proof, Duration::ZERO, 256 * 1024, 32_000, true), None);
    }

    #[test]
    fn a_fast_direction_is_known_after_a_mebibyte() {
        let mut proof = RateGate::new(SECOND);
        assert_eq!(proof.due(), Some(BYTES_AHEAD));
        assert_eq!(proof.look(SECOND, BYTES - 1, true), None);
        assert_eq!(proof.due(), Some(BYTES));
        assert_eq!(proof.look(SECOND, BYTES, true), Some(Turned::Fast));
        assert_eq!(proof.due(), None);
        assert_eq!(proof.look(SECOND, 9 * BYTES, false), None);
    }

    #[test]
    fn so_is_one_whose_source_is_a_second_away_and_has_a_window_of_96_kib() {
        let mut proof = RateGate::new(Duration::ZERO);
        let (turned, after) = watch(&mut proof, Duration::ZERO, 0, 96 * 1024, false).unwrap();
        assert_eq!(turned, Turned::Fast);
        assert!(after <= TIME, "{after:?}");
    }

    #[test]
    fn a_pause_is_not_slowness_and_the_bytes_after_it_are_the_proof() {
        let mut proof = RateGate::new(Duration::ZERO);
        assert_eq!(proof.look(1000 * SECOND, BYTES, false), None);
        assert_eq!(proof.due(), Some(BYTES + BYTES_AHEAD));
        assert_eq!(proof.look(1001 * SECOND, 2 * BYTES, false), Some(Turned::Fast));
        assert_eq!(proof.look(2000 * SECOND, 2 * BYTES + 1, true), None);
    }

    #[test]
    fn a_target_that_becomes_slow_is_found_out_while_it_is_behind() {
        let mut proof = RateGate::new(Duration::ZERO);
        proof.look(Duration::ZERO, BYTES, true);
        let mut idle = proof;
        assert_eq!(watch(&mut idle, SECOND, BYTES, 32_000, false), None);
        let (turned, after) = watch(&mut proof, SECOND, BYTES, 32_000, true).unwrap();
        assert_eq!(turned, Turned::Slow);
        assert!(after <= 2 * TIME, "{after:?}");
        assert!(proof.due().is_some());
    }
}
