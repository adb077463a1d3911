//! TCP options whose numbers belong to a leg: time stamps and selective acknowledgements.

use super::header::Shift;

/// Most bytes of options in a header.
pub const MAX: usize = 40;

/// Room for them, and for what a step may look at behind them: whatever `at` is, no place is outside.
const ROOM: usize = 128;
const PLACES: u32 = 63;

const END: u8 = 0;
const NOTHING: u8 = 1;
const SACK: u8 = 5;
const STAMPS: u8 = 8;
const STAMPS_LEN: u32 = 10;

/// Edges of the most blocks that fit.
const EDGES: u32 = 8;

/// `NOP NOP TIMESTAMP 10`: how nearly every segment begins, and usually all that it has.
pub const USUAL: u32 = u32::from_be_bytes([NOTHING, NOTHING, STAMPS, 10]).to_be();
/// Bytes of that with its two numbers.
pub const USUAL_BYTES: u32 = 12;

/// A walk over the options of one header, one option for each step.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Walk {
    /// The options, zeros behind them.
    pub bytes: [u8; ROOM],
    /// How many bytes are options.
    pub len: u32,
    /// Where the next one begins.
    pub at: u32,
    /// The time stamp that was found, as it came in.
    pub stamp: u32,
    /// Other than 0: there is one.
    pub has_stamp: u32,
}

impl Walk {
    /// Over nothing yet.
    pub const EMPTY: Self = Self { bytes: [0; ROOM], len: 0, at: 0, stamp: 0, has_stamp: 0 };

    /// Translates the next option. Says whether there may be more.
    #[inline(always)]
    pub const fn step(&mut self, shift: &Shift) -> bool {
        let at = self.at;
        if at >= self.len || at as usize >= MAX {
            return false;
        }
        let kind = self.byte(at);
        if kind == END {
            return false;
        }
        if kind == NOTHING {
            self.at = at + 1;
            return true;
        }
        let len = self.byte(at + 1) as u32;
        if len < 2 || at + len > self.len {
            return false;
        }
        if kind == STAMPS && len == STAMPS_LEN {
            self.stamp = self.word(at + 2);
            self.has_stamp = 1;
            let [stamp, echo] = shift.stamps(self.stamp, self.word(at + 6));
            self.set_word(at + 2, stamp);
            self.set_word(at + 6, echo);
        } else if kind == SACK {
            let mut edge = 0;
            while edge < EDGES {
                let place = 2 + edge * 4;
                if place + 4 <= len {
                    let moved = self.word(at + place).wrapping_add(shift.ack);
                    self.set_word(at + place, moved);
                }
                edge += 1;
            }
        }
        self.at = at + len;
        true
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked: there is room behind every place")]
    const fn byte(&self, at: u32) -> u8 {
        self.bytes[(at & PLACES) as usize]
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked: there is room behind every place")]
    const fn word(&self, at: u32) -> u32 {
        let at = (at & PLACES) as usize;
        let bytes = &self.bytes;
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked: there is room behind every place")]
    const fn set_word(&mut self, at: u32, word: u32) {
        let at = (at & PLACES) as usize;
        let [a, b, c, d] = word.to_be_bytes();
        self.bytes[at] = a;
        self.bytes[at + 1] = b;
        self.bytes[at + 2] = c;
        self.bytes[at + 3] = d;
    }
}

/// Takes away the offers of a SYN that the other leg did not make, by writing nothing in their place: time stamps
/// (`keep[0]` false) and selective acknowledgements (`keep[1]` false). One option for each step, as [`Walk::step`].
#[inline(always)]
pub const fn withhold(walk: &mut Walk, keep: [bool; 2]) -> bool {
    const SACK_PERMITTED: u8 = 4;
    let at = walk.at;
    if at >= walk.len || at as usize >= MAX {
        return false;
    }
    let kind = walk.byte(at);
    if kind == END {
        return false;
    }
    if kind == NOTHING {
        walk.at = at + 1;
        return true;
    }
    let len = walk.byte(at + 1) as u32;
    if len < 2 || at + len > walk.len {
        return false;
    }
    let [stamps, sack] = keep;
    if (kind == STAMPS && len == STAMPS_LEN && !stamps) || (kind == SACK_PERMITTED && len == 2 && !sack) {
        let mut offset = 0;
        while offset < STAMPS_LEN {
            if offset < len {
                walk.erase(at + offset);
            }
            offset += 1;
        }
    }
    walk.at = at + len;
    true
}

impl Walk {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked: there is room behind every place")]
    const fn erase(&mut self, at: u32) {
        self.bytes[(at & PLACES) as usize] = NOTHING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(options: &[u8]) -> Walk {
        let mut walk = Walk::EMPTY;
        walk.bytes[..options.len()].copy_from_slice(options);
        walk.len = u32::try_from(options.len()).unwrap();
        walk
    }

    fn run(walk: &mut Walk, mut step: impl FnMut(&mut Walk) -> bool) {
        assert!((0..=MAX).any(|_| !step(walk)), "a walk without an end");
    }

    #[derive(Debug, Clone)]
    enum Kind {
        Nothing,
        Stamps(u32, u32),
        Sack(Vec<u32>),
        SackPermitted,
        Other(u8, Vec<u8>),
    }

    impl Kind {
        fn bytes(&self) -> Vec<u8> {
            let with_head = |kind: u8, body: Vec<u8>| {
                let mut all = vec![kind, u8::try_from(body.len() + 2).unwrap()];
                all.extend(body);
                all
            };
            match self {
                Self::Nothing => vec![NOTHING],
                Self::Stamps(stamp, echo) => {
                    with_head(STAMPS, [stamp.to_be_bytes(), echo.to_be_bytes()].concat())
                }
                Self::Sack(edges) => {
                    with_head(SACK, edges.iter().flat_map(|edge| edge.to_be_bytes()).collect())
                }
                Self::SackPermitted => vec![4, 2],
                Self::Other(kind, body) => with_head(*kind, body.clone()),
            }
        }

        /// The plain model of a translation.
        fn moved(&self, shift: &Shift) -> Self {
            match self {
                Self::Stamps(stamp, echo) => {
                    let [stamp, echo] = shift.stamps(*stamp, *echo);
                    Self::Stamps(stamp, echo)
                }
                Self::Sack(edges) => {
                    Self::Sack(edges.iter().map(|edge| edge.wrapping_add(shift.ack)).collect())
                }
                other => other.clone(),
            }
        }
    }

    fn kinds() -> impl Strategy<Value = Vec<Kind>> {
        let one = prop_oneof![
            Just(Kind::Nothing),
            any::<(u32, u32)>().prop_map(|(stamp, echo)| Kind::Stamps(stamp, echo)),
            proptest::collection::vec(any::<[u32; 2]>(), 1..=4)
                .prop_map(|blocks| Kind::Sack(blocks.concat())),
            Just(Kind::SackPermitted),
            (
                proptest::sample::select(vec![2_u8, 3, 19, 30, 34, 253]),
                proptest::collection::vec(any::<u8>(), 0..9)
            )
                .prop_map(|(kind, body)| Kind::Other(kind, body)),
        ];
        proptest::collection::vec(one, 0..8).prop_map(|mut kinds| {
            while kinds.iter().map(|kind| kind.bytes().len()).sum::<usize>() > MAX {
                kinds.pop();
            }
            kinds
        })
    }

    proptest! {
        #[test]
        fn each_option_is_translated_by_its_kind(kinds in kinds(), ack: u32, stamp: u32, echo: u32) {
            let shift = Shift { ack, stamp, echo, ..Shift::default() };
            let bytes: Vec<u8> = kinds.iter().flat_map(Kind::bytes).collect();
            let mut walk = walk(&bytes);
            run(&mut walk, |walk| walk.step(&shift));
            let wanted: Vec<u8> = kinds.iter().flat_map(|kind| kind.moved(&shift).bytes()).collect();
            prop_assert_eq!(&walk.bytes[..bytes.len()], &wanted[..]);
            let last = kinds.iter().rev().find_map(|kind| match kind { Kind::Stamps(stamp, _) => Some(*stamp), _ => None });
            prop_assert_eq!((walk.has_stamp != 0).then_some(walk.stamp), last);
        }

        #[test]
        fn offers_are_withheld_and_nothing_else(kinds in kinds(), keep: [bool; 2]) {
            let bytes: Vec<u8> = kinds.iter().flat_map(Kind::bytes).collect();
            let mut walk = walk(&bytes);
            run(&mut walk, |walk| withhold(walk, keep));
            let wanted: Vec<u8> = kinds.iter().flat_map(|kind| match kind {
                Kind::Stamps(..) if !keep[0] => vec![NOTHING; 10],
                Kind::SackPermitted if !keep[1] => vec![NOTHING; 2],
                other => other.bytes(),
            }).collect();
            prop_assert_eq!(&walk.bytes[..bytes.len()], &wanted[..]);
        }

        #[test]
        fn noise_neither_panics_nor_touches_what_is_behind(noise in proptest::collection::vec(any::<u8>(), 0..=40), ack: u32) {
            let shift = Shift { ack, stamp: 1, ..Shift::default() };
            let mut one = walk(&noise);
            run(&mut one, |walk| walk.step(&shift));
            prop_assert!(one.bytes[noise.len()..].iter().all(|byte| *byte == 0));
            let mut other = walk(&noise);
            run(&mut other, |walk| withhold(walk, [false; 2]));
            prop_assert!(other.bytes[noise.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
