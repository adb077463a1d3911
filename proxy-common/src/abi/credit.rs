//! How many bytes of a flow may be on their way in the kernel: as many as its target takes in a moment, so that a fast
//! flow is never short of them, and a slow one keeps little in the proxy.
//!
//! The verdict asks for each segment, so that everything is integers, and nothing loops.

/// What the target's peer acknowledges within a horizon may wait for it: a quarter of a second, and two round trips, since
/// what is sent now is acknowledged a round trip later at the earliest.
const HORIZON_US: u64 = 250_000;

/// The shortest time over which a rate is measured. A receiver that does not read acknowledges what its own buffer holds
/// at once, and nothing later: over a shorter time it would look fast.
const EPOCH_US: u64 = 100_000;

/// Longest round trip that is believed: four seconds.
const ROUND_TRIP_MAX_US: u64 = 4_000_000;

/// Credit of a flow of which nothing is known yet, and the least of any, in bytes: one that takes 256 kbit/s drains it in
/// 2 seconds.
pub const FLOOR: u64 = 64 * 1024;

/// The most that one direction gets, in bytes: more does not make a flow faster, only colder in the caches.
pub const CEILING: u64 = 16 << 20;

/// The pace at which the peer of a target acknowledges bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pace {
    /// When the current epoch began, in nanoseconds of the monotonic clock. 0: never.
    pub begun_ns: u64,
    /// `snd_una` of the target then.
    pub begun_una: u64,
    /// Bytes acknowledged in the epoch before, as if it had lasted exactly as long as it should.
    pub before: u64,
}

impl Pace {
    /// Bytes that may be unacknowledged now. `round_trip_us` is the target's smoothed round trip.
    pub fn credit(&mut self, now_ns: u64, snd_una: u32, round_trip_us: u32) -> u64 {
        let round_trips = 2 * (round_trip_us as u64).min(ROUND_TRIP_MAX_US);
        let epoch = if round_trips > EPOCH_US { round_trips } else { EPOCH_US };
        let elapsed = now_ns.wrapping_sub(self.begun_ns) / 1000;
        let mut acked = snd_una.wrapping_sub(low(self.begun_una)) as u64;
        if self.begun_ns == 0 || elapsed >= epoch {
            // Checked, since a division that could panic is none that the kernel loads.
            self.before =
                if self.begun_ns == 0 { 0 } else { (acked * epoch).checked_div(elapsed).unwrap_or(0) };
            self.begun_ns = now_ns;
            self.begun_una = snd_una as u64;
            acked = 0;
        }
        let pace = if acked > self.before { acked } else { self.before };
        (pace * (HORIZON_US + round_trips)).checked_div(epoch).unwrap_or(0)
    }
}

/// Sequence numbers are 32 bits wide, and differences of byte counts wrap with them (RFC 9293 section 3.4).
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
#[must_use]
pub const fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A peer that acknowledges `rate` bytes a second, seen every `step` for `time`; the credits on the way.
    fn credits(rate: u64, round_trip_us: u32, step: u64, time: u64) -> Vec<u64> {
        let mut pace = Pace::default();
        let una = |at: u64| low(u64::from(u32::MAX - 1000) + rate * at / 1_000_000_000);
        (0..time / step).map(|n| pace.credit(MS + n * step, una(n * step), round_trip_us)).collect()
    }

    #[test]
    fn a_slow_link_gets_what_it_takes_in_a_quarter_of_a_second() {
        let credits = credits(32_000, 50_000, 20 * MS, 5_000 * MS);
        let most = credits.iter().max().copied().unwrap_or_default();
        assert!((8_000..20_000).contains(&most), "{most}");
    }

    #[test]
    fn a_fast_one_over_a_long_way_gets_more_than_its_bandwidth_delay_product() {
        // 1 Gbit/s at 300 ms.
        let credits = credits(125_000_000, 300_000, MS, 3_000 * MS);
        let settled = credits.last().copied().unwrap_or_default();
        assert!(settled > 2 * 125_000_000 * 300 / 1000, "{settled}");
    }

    #[test]
    fn credit_grows_within_the_first_epoch_and_shrinks_after_a_pause() {
        let mut pace = Pace::default();
        assert_eq!(pace.credit(MS, 0, 100), 0);
        let early = pace.credit(3 * MS, 1_000_000, 100);
        assert!(early >= 2_500_000, "{early}");
        let later = pace.credit(100_000 * MS, 2_000_000, 100);
        assert!(later < 10_000, "{later}");
    }

    proptest::proptest! {
        #[test]
        fn no_reading_makes_it_overflow(
            readings in proptest::collection::vec((proptest::num::u64::ANY, proptest::num::u32::ANY, proptest::num::u32::ANY), 1..50)
        ) {
            let mut pace = Pace::default();
            for (now, una, round_trip) in readings {
                pace.credit(now, una, round_trip);
            }
        }
    }
}
