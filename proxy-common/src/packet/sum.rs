//! Differences of Internet checksums (RFC 1624). Words are taken as they stand in memory: one's complement sums do not mind
//! the order of bytes as long as it is the same throughout.

/// The difference that changed words make to a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference(u32);

impl Difference {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// With a word that was `old` and is `new`.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(add(add(self.0, !old), new))
    }

    /// With a half word, at an even place.
    #[must_use]
    #[inline(always)]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(add(add(self.0, !old as u32), new as u32))
    }

    /// With what else has changed.
    #[must_use]
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// As the kernel's helpers want it.
    #[must_use]
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The new checksum of a header that had `old`.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, old: u16) -> u16 {
        !fold(add(!old as u32, fold(self.0) as u32))
    }
}

/// A sum of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u32);

impl Sum {
    /// With one more word.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        Self(add(self.0, word))
    }

    /// The checksum.
    #[must_use]
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// What to write to a field of a header, of which this is the sum without the field, so that the checksum that a network card
    /// may still write there is the same number: the half of the complement. In one's complement every number has a half.
    #[must_use]
    #[inline(always)]
    pub const fn lasting(self) -> u16 {
        self.checksum().rotate_right(1)
    }
}

#[inline(always)]
const fn add(a: u32, b: u32) -> u32 {
    let sum = a.wrapping_add(b);
    sum.wrapping_add((sum < a) as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "after two folds nothing is left above")]
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checksum(words: &[u32]) -> u16 {
        words.iter().fold(Sum::default(), |sum, &word| sum.word(word)).checksum()
    }

    /// 0 and 0xffff are the same number in one's complement.
    fn normal(sum: u16) -> u16 {
        if sum == u16::MAX { 0 } else { sum }
    }

    proptest! {
        #[test]
        fn a_changed_header_has_the_checksum_of_a_new_one(
            words in proptest::collection::vec(any::<u32>(), 1..15), at: usize, new: u32, half: u16,
        ) {
            let at = at % words.len();
            let mut changed = words.clone();
            changed[at] = new;
            let difference = Difference::NONE.word(words[at], new);
            let [first, second] = split(changed[at]);
            changed[at] = join([half, second]);
            let difference = difference.half(first, half);
            prop_assert_eq!(normal(difference.apply(checksum(&words))), normal(checksum(&changed)));
        }
    }

    proptest! {
        #[test]
        fn a_lasting_number_is_the_checksum_of_what_it_stands_in(
            words in proptest::collection::vec(any::<u32>(), 1..15),
        ) {
            let sum = words.iter().fold(Sum::default(), |sum, &word| sum.word(word));
            let lasting = sum.lasting();
            prop_assert_eq!(normal(sum.word(lasting.into()).checksum()), normal(lasting));
        }
    }

    fn split(word: u32) -> [u16; 2] {
        let [a, b, c, d] = word.to_ne_bytes();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }

    fn join([one, other]: [u16; 2]) -> u32 {
        let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }
}
