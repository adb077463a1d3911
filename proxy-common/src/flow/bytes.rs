//! Byte accounting: each byte is reported once, whoever asks and how often.

/// A total that is observed now and then, and reported as increments that add up to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    reported: u64,
}

impl Meter {
    /// What to add to a counter so that it has seen `total` bytes of this flow. A total that is lower than an
    /// earlier one (a reading that raced with another) adds nothing.
    #[must_use]
    pub fn advance(&mut self, total: u64) -> u64 {
        let increment = total.saturating_sub(self.reported);
        self.reported = self.reported.max(total);
        increment
    }

    /// The highest total so far, in bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn increments_add_up_to_the_highest_total(totals in proptest::collection::vec(0_u64..1 << 40, 1..50)) {
            let mut meter = Meter::default();
            let sum: u64 = totals.iter().map(|&total| meter.advance(total)).sum();
            prop_assert_eq!(Some(sum), totals.iter().copied().max());
            prop_assert_eq!(meter.total(), sum);
        }
    }
}
