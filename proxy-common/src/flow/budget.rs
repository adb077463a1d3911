//! How much credit any direction of any flow may have, so that all together stay within the memory that the host has for TCP.

use crate::abi::credit::{CEILING, FLOOR};

/// The rule of the whole daemon. Asked now and then, with nothing to remember but where the ceiling is.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    ceiling: u64,
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The ceiling is lower.
    Shrunk,
    /// The ceiling is higher.
    Grown,
}

impl Budget {
    /// For `bytes` in the buffers of all TCP sockets of the host.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { bytes, ceiling: CEILING }
    }

    /// The most credit of a direction now, in bytes: from [`FLOOR`] to [`CEILING`].
    #[must_use]
    pub const fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Whether flows get less than without a budget.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        self.ceiling < CEILING
    }

    /// Halves the ceiling while more than the budget is `used`, and doubles it while less than three quarters of it are: between
    /// the two it stays, so that it does not swing.
    pub fn step(&mut self, used: u64) -> Change {
        let before = self.ceiling;
        if used > self.bytes {
            self.ceiling = (before / 2).max(FLOOR);
        } else if used < self.bytes - self.bytes / 4 {
            self.ceiling = (before * 2).min(CEILING);
        }
        match self.ceiling.cmp(&before) {
            std::cmp::Ordering::Less => Change::Shrunk,
            std::cmp::Ordering::Equal => Change::None,
            std::cmp::Ordering::Greater => Change::Grown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 1000;

    #[test]
    fn it_halves_down_to_the_floor_and_doubles_back_up() {
        let mut budget = Budget::new(BYTES);
        assert_eq!(budget.ceiling(), CEILING);
        assert_eq!(budget.step(BYTES + 1), Change::Shrunk);
        assert_eq!(budget.ceiling(), CEILING / 2);
        while budget.step(BYTES + 1) == Change::Shrunk {}
        assert_eq!(budget.ceiling(), FLOOR);
        assert_eq!(budget.step(BYTES / 4 * 3 - 1), Change::Grown);
        assert_eq!(budget.ceiling(), 2 * FLOOR);
        assert!(budget.is_short());
        while budget.step(0) == Change::Grown {}
        assert_eq!(budget.ceiling(), CEILING);
        assert!(!budget.is_short());
    }

    #[test]
    fn between_three_quarters_and_all_of_the_budget_it_stays() {
        let mut budget = Budget::new(BYTES);
        budget.step(BYTES + 1);
        for used in [BYTES / 4 * 3, BYTES - 1, BYTES] {
            assert_eq!(budget.step(used), Change::None);
            assert_eq!(budget.ceiling(), CEILING / 2);
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_changes_as_it_says(
            bytes in any::<u64>(),
            readings in proptest::collection::vec(any::<u64>(), 0..100),
        ) {
            let mut budget = Budget::new(bytes);
            for used in readings {
                let before = budget.ceiling();
                let change = budget.step(used);
                prop_assert!((FLOOR..=CEILING).contains(&budget.ceiling()));
                let expected = match change {
                    Change::None => before == budget.ceiling(),
                    Change::Shrunk => used > bytes && budget.ceiling() < before,
                    Change::Grown => used < bytes && budget.ceiling() > before,
                };
                prop_assert!(expected);
            }
        }
    }
}
