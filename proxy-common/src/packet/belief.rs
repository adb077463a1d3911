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
pub const fn believe(entry: &Entry, other: &Entry, segment: &Segment, trust: Trust) -> Belief {
    let mut belief = Belief { flags: 0, doubted: false };
    if segment.has(tcp::FIN) {
        // Segments before it may have been lost on their way here, so that it need not come next. A false end is never acknowledged.
        if !matches!(trust, Trust::Nothing) && !before(segment.seq, expected(entry, other)) {
            belief.flags |= flag::FIN;
            if other.flags & flag::FIN == 0 {
                belief.flags |= flag::FIRST;
            }
        } else {
            belief.doubted = true;
        }
    }
    if segment.has(tcp::RST) {
        if is_reset(entry, other, segment) {
            belief.flags |= flag::RST;
        } else {
            belief.doubted = true;
            if is_near(entry, other, segment.seq) {
                belief.flags |= flag::DOUBT;
            }
        }
        if belief.flags & (flag::RST | flag::DOUBT) != 0 && other.flags & (flag::RST | flag::DOUBT) == 0 {
            belief.flags |= flag::CAUSE;
        }
    }
    belief
}

/// Whether a reset has the number that its receiver has asked for last. An end that has none any more answers with it whatever it is
/// sent, be it a question of its peer's (RFC 5961, section 3.2) or of ours. No stranger can lead us to believe in another one: it is
/// what the other end has acknowledged, which goes by in the numbers of the other connection.
#[must_use]
#[inline(always)]
pub const fn is_reset(entry: &Entry, other: &Entry, segment: &Segment) -> bool {
    segment.has(tcp::RST) && segment.seq == expected(entry, other)
}

/// What is to be learnt of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It may be anybody's.
    Nothing,
    /// It is its sender's, but says of more bytes than the other end has room for: those are not taken for sent.
    Heard,
    /// All that it says.
    All,
}

/// So far from what is known may be what an end says: more than any window is. It has to be as far, since an end of which once nothing
/// was learnt moves on, and then the other one would seem to say what cannot be.
pub const ROOM: u32 = 1 << 26;

/// Whether a packet may be that of the end that it says it is from. What others send under its name must not be learnt: by it strangers
/// would decide what is believed later, what probes look like, and how many bytes were carried. Its ends look at it themselves.
///
/// Both its numbers have to be near (RFC 5961, section 5), and what is learnt of one does not make more of the next ones near: the sequence
/// is compared with what the other end has acknowledged. Still, of some thousand guesses one is near. So nothing that ends a flow is
/// believed for that.
#[must_use]
#[inline(always)]
pub const fn trust(entry: &Entry, other: &Entry, segment: &Segment, payload: u32) -> Trust {
    if segment.has(tcp::SYN | tcp::RST) || !segment.has(tcp::ACK) || !is_near(entry, other, segment.seq) {
        return Trust::Nothing;
    }
    let ended = (other.flags & flag::FIN) as u32;
    let gone_by = sent(other).wrapping_add(ended).wrapping_add(other.seq).wrapping_sub(entry.acked);
    let gone_by = if gone_by <= MAX_WINDOW { gone_by } else { 0 };
    // Two CPUs may have muddled what the other end has sent: what comes next may acknowledge more than that.
    // One more: for an end that was lost.
    let ahead = if is_within(segment.seq, sent(entry), 1) { larger(gone_by, ROOM) } else { gone_by };
    if !is_within(segment.ack, entry.acked.wrapping_sub(ROOM), ROOM.wrapping_add(ahead)) {
        return Trust::Nothing;
    }
    let first = expected(entry, other).wrapping_sub(ROOM);
    let end = segment.seq.wrapping_add(payload);
    if is_within(end, first, ROOM.wrapping_add(larger(window(other), ROOM))) {
        Trust::All
    } else {
        Trust::Heard
    }
}

/// Whether the other end may have room for a byte with this number.
#[inline(always)]
const fn is_near(entry: &Entry, other: &Entry, seq: u32) -> bool {
    let expected = expected(entry, other);
    let known = sent(entry).wrapping_sub(expected);
    // A receiver may have shut its window before bytes that are on their way.
    let known = if known <= MAX_WINDOW { known } else { 0 };
    let open = larger(known, larger(window(other), ROOM));
    is_within(seq, expected.wrapping_sub(ROOM), ROOM.wrapping_add(open))
}

/// The next byte that the other end waits for, as far as is known here, in the numbers of the packets of `entry`.
#[inline(always)]
pub(super) const fn expected(entry: &Entry, other: &Entry) -> u32 {
    other.acked.wrapping_sub(entry.seq)
}

/// The number behind the last byte that was sent.
#[inline(always)]
const fn sent(entry: &Entry) -> u32 {
    low(entry.sent).wrapping_add(entry.start)
}

/// In bytes.
#[inline(always)]
const fn window(entry: &Entry) -> u32 {
    (entry.window as u32) << (entry.scale_in & 15)
}

#[inline(always)]
const fn larger(a: u32, b: u32) -> u32 {
    if a < b { b } else { a }
}

/// Of TCP (RFC 7323).
const MAX_WINDOW: u32 = 1 << 30;

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

/// Whether the stream that comes in by `entry` has ended, as far as can be told. An end of which the other side has acknowledged all
/// but the end itself was a stranger's word, or was lost and comes again; so was one behind which the stream goes on.
#[must_use]
#[inline(always)]
pub const fn has_ended(entry: &Entry, other: &Entry) -> bool {
    let expected = expected(entry, other);
    entry.flags & flag::FIN != 0 && (expected == entry.fin.wrapping_add(1) || before(expected, entry.fin))
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
#[inline(always)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
#[path = "belief_model.rs"]
mod model;

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
    fn an_end_is_believed_of_a_packet_that_may_be_its_senders() {
        let [entry, other] = entries();
        for (seq, believed) in [(1059, false), (1060, true), (1100, true), (1200, true)] {
            let belief = believe(&entry, &other, &with(tcp::FIN | tcp::ACK, seq), Trust::Heard);
            let first = flag::FIN | flag::FIRST;
            assert_eq!((belief.flags == first, belief.doubted), (believed, !believed), "{seq}");
        }
        let after = Entry { flags: flag::FIN, ..other };
        let end = with(tcp::FIN | tcp::ACK, 1060);
        assert_eq!(believe(&entry, &after, &end, Trust::All).flags, flag::FIN);
        assert_eq!(believe(&entry, &other, &end, Trust::Nothing), Belief { flags: 0, doubted: true });
    }

    #[test]
    fn a_reset_is_believed_with_the_number_that_was_asked_for() {
        let [entry, other] = entries();
        for (seq, flags) in [(1059, flag::DOUBT), (1060, flag::RST), (1100, flag::DOUBT), (0x8000_0000, 0)] {
            let belief = believe(&entry, &other, &with(tcp::RST, seq), Trust::Nothing);
            let cause = if flags == 0 { 0 } else { flag::CAUSE };
            assert_eq!((belief.flags, belief.doubted), (flags | cause, flags != flag::RST), "{seq}");
            for before in [flag::RST, flag::DOUBT] {
                let said = Entry { flags: before, ..other };
                assert_eq!(
                    believe(&entry, &said, &with(tcp::RST, seq), Trust::Nothing).flags,
                    flags,
                    "{seq}"
                );
            }
        }
        let ended = Entry { flags: flag::FIN, fin: 1100, ..entry };
        let knows = Entry { acked: 1601, ..other };
        let behind = with(tcp::RST, 1101);
        let believed = believe(&ended, &knows, &behind, Trust::Nothing).flags;
        assert_eq!(believed, flag::RST | flag::CAUSE, "behind its own end");
        let data = with(tcp::ACK, 1);
        assert_eq!(believe(&entry, &other, &data, Trust::Nothing), Belief { flags: 0, doubted: false });
    }

    /// The same, and the other end has sent up to 7900, which is 7400 on this leg.
    fn both_ways() -> [Entry; 2] {
        let [entry, other] = entries();
        [entry, Entry { start: 7800, sent: 100, seq: 0_u32.wrapping_sub(500), ..other }]
    }

    #[test]
    fn what_is_learnt_of_is_near_with_both_its_numbers() {
        let [entry, other] = both_ways();
        let judge = |segment: Segment| trust(&entry, &other, &segment, 0);
        for (seq, likely) in [
            (1060_u32.wrapping_sub(ROOM), true),
            (1060_u32.wrapping_sub(ROOM + 1), false),
            (1060 + ROOM, true),
            (1061 + ROOM, false),
            (0x8000_0000, false),
        ] {
            let segment = Segment { ack: 7000, ..with(tcp::ACK, seq) };
            assert_eq!(judge(segment) != Trust::Nothing, likely, "{seq}");
            for flags in [tcp::PSH, tcp::SYN | tcp::ACK, tcp::RST | tcp::ACK] {
                assert_eq!(judge(Segment { flags, ..segment }), Trust::Nothing);
            }
        }
        let old = 7000_u32.wrapping_sub(ROOM);
        for (ack, likely) in [
            (7400, true),
            (7401, false),
            (old, true),
            (old.wrapping_sub(1), false),
            (7000 + (1 << 31), false),
        ] {
            assert_eq!(judge(Segment { ack, ..with(tcp::ACK, 1060) }) != Trust::Nothing, likely, "{ack}");
        }
        let ended = Entry { flags: flag::FIN, ..other };
        let segment = Segment { ack: 7401, ..with(tcp::ACK, 1060) };
        assert_eq!(trust(&entry, &ended, &segment, 0), Trust::All);
        // What comes next may acknowledge more than is known here to have been sent.
        let next = |ack| Segment { ack, ..with(tcp::ACK, 1100) };
        assert_eq!(judge(next(7000 + ROOM)), Trust::All);
        assert_eq!(judge(next(7001 + ROOM)), Trust::Nothing);
    }

    #[test]
    fn a_window_that_was_shut_does_not_make_strangers_of_those_who_have_sent() {
        let [entry, other] = both_ways();
        let far = 2 * ROOM;
        let (entry, other) = (Entry { sent: far.into(), ..entry }, Entry { window: 0, ..other });
        let segment = Segment { ack: 7000, ..with(tcp::ACK, 1000 + far) };
        assert_eq!(trust(&entry, &other, &segment, 0), Trust::Heard);
    }

    #[test]
    fn a_sweep_of_forged_packets_moves_little_and_ends_nothing() {
        let [mut entry, other] = both_ways();
        let mut seq = 0_u32;
        // The whole space of sequence numbers, each packet right behind the one before it, with an acknowledgement that fits.
        for _ in 0..=u32::MAX / 65_000 {
            let segment = Segment { ack: 7000, end: seq.wrapping_add(65_000), ..with(tcp::ACK, seq) };
            if trust(&entry, &other, &segment, 65_000) == Trust::All {
                crate::packet::header::note(&mut entry, &segment, 65_000, 1);
            }
            seq = seq.wrapping_add(65_000);
            let reset = with(tcp::RST, seq);
            assert_eq!(believe(&entry, &other, &reset, Trust::Nothing).flags & flag::RST, 0, "{seq}");
        }
        assert!(entry.sent <= 60 + u64::from(ROOM), "{}", entry.sent);
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
        assert!(!has_ended(&entry, &other) && !has_ended(&entry, &beyond));
        assert!(has_ended(&entry, &Entry { acked: 1599, ..other }), "bytes before it wait for a reader");
        other.acked = 1601;
        assert!(is_acknowledged(&entry, &other) && has_ended(&entry, &other) && !is_over(&entry, &other));
        (other.flags, other.seq, other.fin) = (flag::FIN, 0_u32.wrapping_sub(7), 7006);
        entry.acked = 7000;
        assert!(is_over(&entry, &other));
        let reset = Entry { flags: flag::RST, ..Entry::default() };
        assert!(is_over(&reset, &Entry::default()) && is_over(&Entry::default(), &reset));
    }
}
