//! Token buckets, each in one word: the moment at which it will be full again (the generic cell rate algorithm, ITU-T I.371).

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that a token takes. 0: there is no limit.
    pub interval_ns: u64,
    /// Nanoseconds that all tokens but one take.
    pub slack_ns: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { interval_ns: 0, slack_ns: 0 };

    /// `rate` tokens a second, and `burst` at once. A rate of 0: no limit.
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Self {
        if rate == 0 {
            return Self::UNLIMITED;
        }
        let interval_ns = 1_000_000_000 / rate as u64;
        let burst = if burst == 0 { 1 } else { burst };
        Self { interval_ns, slack_ns: interval_ns * (burst as u64 - 1) }
    }

    /// Whether there is any limit.
    #[must_use]
    pub const fn is_limited(self) -> bool {
        self.interval_ns != 0
    }
}

/// The state of one. 0 is a full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket(pub u64);

impl Bucket {
    /// The bucket after one token was taken, or None if it is empty.
    #[inline(always)]
    #[must_use]
    pub const fn take(self, rate: Rate, now_ns: u64) -> Option<Self> {
        if self.0 > now_ns.saturating_add(rate.slack_ns) {
            return None;
        }
        let from = if self.0 > now_ns { self.0 } else { now_ns };
        Some(Self(from.saturating_add(rate.interval_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(bucket: &mut Bucket, rate: Rate, now: u64, times: u32) -> u32 {
        let mut count = 0;
        for _ in 0..times {
            if let Some(next) = bucket.take(rate, now) {
                (*bucket, count) = (next, count + 1);
            }
        }
        count
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (rate, mut bucket) = (Rate::new(10, 5), Bucket::default());
        assert_eq!(taken(&mut bucket, rate, 100 * SECOND, 50), 5);
        assert_eq!(taken(&mut bucket, rate, 100 * SECOND + SECOND / 10, 50), 1);
        assert_eq!(taken(&mut bucket, rate, 100 * SECOND + SECOND / 2, 50), 4);
        assert_eq!(taken(&mut bucket, rate, 200 * SECOND, 50), 5, "it holds no more than its burst");
    }

    #[test]
    fn a_clock_that_goes_back_and_the_end_of_time_break_nothing() {
        let rate = Rate::new(1, 1);
        let later = Bucket::default().take(rate, 10 * SECOND).unwrap();
        assert_eq!(later.take(rate, 9 * SECOND), None);
        assert_eq!(Bucket(u64::MAX).take(rate, u64::MAX), Some(Bucket(u64::MAX)));
    }

    #[test]
    fn no_limit_and_no_burst() {
        assert!(!Rate::new(0, 7).is_limited());
        assert_eq!(taken(&mut Bucket::default(), Rate::UNLIMITED, 5, 1000), 1000);
        assert_eq!(taken(&mut Bucket::default(), Rate::new(1, 0), 5, 1000), 1);
    }
}
