//! Sequence numbers: 32 bits that wrap round (RFC 9293, section 3.4).

/// Whether `a` comes before `b`.
#[must_use]
#[inline(always)]
pub const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// The later one.
#[must_use]
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Whether `seq` stands in the `length` numbers from `first` on, or right behind them.
#[must_use]
#[inline(always)]
pub const fn is_within(seq: u32, first: u32, length: u32) -> bool {
    seq.wrapping_sub(first) <= length
}

/// The place in a stream, of which `known` bytes are known, that is nearest to these and has the sequence number `seq`, where
/// byte 0 has `start`. Never before byte 0.
#[must_use]
#[inline(always)]
pub const fn place(known: u64, start: u32, seq: u32) -> u64 {
    let step = seq.wrapping_sub(start).wrapping_sub(low(known)).cast_signed();
    let distance = step.unsigned_abs() as u64;
    if step < 0 { known.saturating_sub(distance) } else { known.wrapping_add(distance) }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
#[inline(always)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(before(u32::MAX, 0) && before(0, 1) && !before(1, 1) && !before(0, u32::MAX));
        assert_eq!(later(u32::MAX, 5), 5);
        assert!(is_within(3, u32::MAX, 4) && !is_within(4, u32::MAX, 4) && is_within(7, 7, 0));
    }

    proptest! {
        #[test]
        fn places_are_found_again(start: u32, known in 0..1_u64 << 48, step in -(1_i64 << 30)..1 << 30) {
            let place_ = known.saturating_add_signed(step);
            let seq = start.wrapping_add(low(place_));
            prop_assert_eq!(place(known, start, seq), place_);
        }
    }
}
