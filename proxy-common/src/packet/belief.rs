//! Whether the flags of a packet are to be believed. The ends of a connection look at each packet themselves; what is
//! believed here only decides when a flow is forgotten, so that a stranger who knows the addresses must not be able to say it.

use super::header::{Segment, tcp};
use super::seq::{before, is_within};
use crate::abi::packet::{Entry, flag};

/// What a packet's flags say of its sender, where they are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belief {
    /// Bits for [`Entry::flags`].
    pub flags: u16,
    /// Some flag was not believed.
    pub doubted: bool,
}

/// `entry` is that of the packet, before it learns of the packet; `other` that of the other end, which says what has been
/// acknowledged and what window is open.
#[must_use]
#[inline(always)]
pub const fn believe(entry: &Entry, other: &Entry, segment: &Segment) -> Belief {
    let mut belief = Belief { flags: 0, doubted: false };
    // In the packet's own numbers.
    let expected = other.acked.wrapping_sub(entry.seq);
    let ended = (entry.flags & flag::FIN) as u32;
    // What was sent and is not acknowledged, as far as is known here.
    let known = low(entry.sent).wrapping_add(entry.start).wrapping_add(ended).wrapping_sub(expected);
    if segment.has(tcp::FIN) {
        // Segments before it may have been lost on their way here, as many as the window takes. The window may be an old one, since
        // packets overtake each other. A false end is never acknowledged.
        let window = (other.window as u32) << (other.scale_in & 15);
        let reach = if window < SLACK { SLACK } else { window };
        if known <= MAX_WINDOW && is_within(segment.seq, expected, known.wrapping_add(reach)) {
            belief.flags |= flag::FIN;
            if other.flags & flag::FIN == 0 {
                belief.flags |= flag::FIRST;
            }
        } else {
            belief.doubted = true;
        }
    }
    if segment.has(tcp::RST) {
        // A receiver takes the number that it expects (RFC 5961). It is one of those between what it has acknowledged, as far as
        // is known here, and what its peer has sent.
        if is_within(segment.seq, expected, known) && known <= MAX_WINDOW {
            belief.flags |= flag::RST;
        } else {
            belief.doubted = true;
        }
    }
    belief
}

/// Whether a packet begins with the very byte that is to come next. Nobody guesses that.
#[must_use]
#[inline(always)]
pub const fn is_next(entry: &Entry, segment: &Segment) -> bool {
    segment.seq == low(entry.sent).wrapping_add(entry.start)
}

/// Whether a packet that is not the next one may be its sender's all the same: something was lost or overtaken on its way here, or
/// comes again. What others send under its name must not be learnt: by it strangers would decide what is believed later, what
/// probes look like, and how many bytes were carried. Its ends look at it themselves.
#[must_use]
#[inline(always)]
pub const fn is_likely(entry: &Entry, other: &Entry, segment: &Segment) -> bool {
    if segment.has(tcp::SYN) {
        return false;
    }
    // In the packet's own numbers.
    let expected = other.acked.wrapping_sub(entry.seq);
    let known = low(entry.sent).wrapping_add(entry.start).wrapping_sub(expected);
    let known = if known <= MAX_WINDOW { known } else { 0 };
    let window = (other.window as u32) << (other.scale_in & 15);
    let reach = known.wrapping_add(window).wrapping_add(2 * SLACK);
    if !is_within(segment.seq, expected.wrapping_sub(SLACK), reach) {
        return false;
    }
    // What it acknowledges has gone by here.
    let sent = low(other.sent).wrapping_add(other.start).wrapping_add((other.flags & flag::FIN) as u32);
    !segment.has(tcp::ACK) || !before(sent.wrapping_add(other.seq), segment.ack)
}

/// Of TCP (RFC 7323).
const MAX_WINDOW: u32 = 1 << 30;

/// The largest window without a shift.
const SLACK: u32 = 0xffff;

/// Whether a connection is over as far as both entries know, so that a SYN for the same addresses begins another one.
#[must_use]
#[inline(always)]
pub const fn is_over(one: &Entry, other: &Entry) -> bool {
    (one.flags | other.flags) & flag::RST != 0 || (is_acknowledged(one, other) && is_acknowledged(other, one))
}

/// Whether the end of the stream that comes in by `entry` was acknowledged by the other end.
#[must_use]
#[inline(always)]
pub const fn is_acknowledged(entry: &Entry, other: &Entry) -> bool {
    let expected = other.acked.wrapping_sub(entry.seq);
    entry.flags & flag::FIN != 0 && expected == entry.fin.wrapping_add(1)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
#[inline(always)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes sent from sequence number 1000 on, 60 of them acknowledged, by a receiver whose window is 64 bytes; on the other
    /// leg the numbers are 500 higher.
    fn entries() -> [Entry; 2] {
        let entry = Entry { start: 1000, sent: 100, seq: 500, acked: 7000, ..Entry::default() };
        let back = 0_u32.wrapping_sub(500);
        let other = Entry { acked: 1560, ack: back, window: 32, scale_in: 1, ..Entry::default() };
        [entry, other]
    }

    fn with(flags: u8, seq: u32) -> Segment {
        Segment { seq, flags, ..Segment::default() }
    }

    #[test]
    fn an_end_is_believed_in_the_window() {
        let [entry, other] = entries();
        for (seq, believed) in
            [(1059, false), (1060, true), (1100, true), (66_635, true), (66_636, false), (7, false)]
        {
            let belief = believe(&entry, &other, &with(tcp::FIN | tcp::ACK, seq));
            let first = flag::FIN | flag::FIRST;
            assert_eq!((belief.flags == first, belief.doubted), (believed, !believed), "{seq}");
        }
        let after = Entry { flags: flag::FIN, ..other };
        assert_eq!(believe(&entry, &after, &with(tcp::FIN | tcp::ACK, 1060)).flags, flag::FIN);
    }

    #[test]
    fn a_reset_is_believed_between_what_was_acknowledged_and_what_was_sent() {
        let [entry, other] = entries();
        for (seq, believed) in [(1059, false), (1060, true), (1100, true), (1101, false), (0, false)] {
            let belief = believe(&entry, &other, &with(tcp::RST, seq));
            assert_eq!((belief.flags == flag::RST, belief.doubted), (believed, !believed), "{seq}");
        }
        let ended = Entry { flags: flag::FIN, fin: 1100, ..entry };
        let knows = Entry { acked: 1601, ..other };
        assert_eq!(believe(&ended, &knows, &with(tcp::RST, 1101)).flags, flag::RST, "behind its own end");
        assert_eq!(believe(&entry, &other, &with(tcp::ACK, 1)), Belief { flags: 0, doubted: false });
    }

    #[test]
    fn what_is_learnt_of_comes_next_or_is_near() {
        let [entry, other] = entries();
        assert!(is_next(&entry, &with(tcp::ACK, 1100)) && !is_next(&entry, &with(tcp::ACK, 1101)));
        let slack = SLACK;
        // 60 of 100 bytes are acknowledged, and the window is 64.
        for (seq, likely) in [
            (1060_u32.wrapping_sub(slack), true),
            (1060_u32.wrapping_sub(slack + 1), false),
            (1059, true),
            (1100 + 64 + slack, true),
            (1100 + 65 + slack, false),
            (0x8000_0000, false),
        ] {
            let segment = Segment { ack: 7000, ..with(tcp::ACK, seq) };
            assert_eq!(is_likely(&entry, &Entry { start: 7500, ..other }, &segment), likely, "{seq}");
        }
        assert!(!is_likely(&entry, &other, &with(tcp::SYN, 1060)));
        // The other end has sent up to 7900, which is 7400 on this leg.
        let other = Entry { start: 7800, sent: 100, seq: 0_u32.wrapping_sub(500), ..other };
        for (ack, likely) in [(7400, true), (7401, false), (7000, true)] {
            assert_eq!(is_likely(&entry, &other, &Segment { ack, ..with(tcp::ACK, 1060) }), likely, "{ack}");
        }
        let ended = Entry { flags: flag::FIN, ..other };
        assert!(is_likely(&entry, &ended, &Segment { ack: 7401, ..with(tcp::ACK, 1060) }));
    }

    #[test]
    fn it_is_over_when_both_ends_are_acknowledged_or_one_has_reset() {
        let [mut entry, mut other] = entries();
        assert!(!is_over(&entry, &other));
        (entry.flags, entry.fin) = (flag::FIN, 1100);
        assert!(!is_acknowledged(&entry, &other), "60 of 100 bytes are");
        let beyond = Entry { acked: 1700, ..other };
        assert!(!is_acknowledged(&entry, &beyond), "a false end: the stream went on");
        other.acked = 1600;
        assert!(!is_acknowledged(&entry, &other), "the bytes are, the end is not");
        other.acked = 1601;
        assert!(is_acknowledged(&entry, &other) && !is_over(&entry, &other));
        (other.flags, other.seq, other.fin) = (flag::FIN, 0_u32.wrapping_sub(7), 7006);
        entry.acked = 7000;
        assert!(is_over(&entry, &other));
        let reset = Entry { flags: flag::RST, ..Entry::default() };
        assert!(is_over(&reset, &Entry::default()) && is_over(&Entry::default(), &reset));
    }
}
