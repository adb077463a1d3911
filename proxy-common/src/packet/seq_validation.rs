//! Whether the flags of a packet are to be believed. The ends of a connection look at each packet themselves; what is
//! believed here only decides when a flow is forgotten, so that a stranger who knows the addresses must not be able to say it.

use super::header::{Segment, hear, note, note_sent, tcp};
use super::seq::{before, is_within};
use crate::abi::packet::{Entry, flag, state};

/// What a packet's flags say of its sender, where they are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidFlags {
    /// [`flag`]s.
    pub flags: u8,
    /// Some flag was not believed.
    pub doubted: bool,
}

/// `entry` is that of the packet, before it learns of the packet; `other` that of the other end, which says what has been
/// acknowledged and what window is open.
#[must_use]
#[inline(always)]
pub const fn validate_flags(
    entry: &Entry,
    other: &Entry,
    segment: &Segment,
    acceptance: Acceptance,
) -> ValidFlags {
    let mut valid = ValidFlags { flags: 0, doubted: false };
    if segment.has(tcp::FIN) {
        // Segments before it may have been lost on their way here, so that it need not come next. It counts once it is acknowledged.
        valid.flags |= match acceptance {
            Acceptance::All | Acceptance::Sent => flag::FIN,
            Acceptance::Old | Acceptance::Heard => flag::SAID,
            Acceptance::Less | Acceptance::Nothing => 0,
        };
        valid.doubted = valid.flags & flag::FIN == 0;
        if valid.flags != 0 && !may_have_ended(other, entry) {
            valid.flags |= flag::FIRST;
        }
    }
    if segment.has(tcp::RST) {
        if is_reset(entry, other, segment) {
            valid.flags |= flag::RST;
        } else {
            valid.doubted = true;
            if is_near(entry, other, segment.seq) {
                valid.flags |= flag::DOUBT;
            }
        }
        if valid.flags & (flag::RST | flag::DOUBT) != 0 && other.flags() & (flag::RST | flag::DOUBT) == 0 {
            valid.flags |= flag::CAUSE;
        }
    }
    valid
}

/// What [`heed`] says: there is news of the flow,
pub const NEWS: u32 = 1;
/// and some flag was not believed.
pub const DOUBTED: u32 = 2;

/// Notes an end or a reset. A sum of the above.
#[inline(always)]
pub const fn record_end(entry: &mut Entry, other: &Entry, segment: &Segment, acceptance: Acceptance) -> u32 {
    let valid = validate_flags(entry, other, segment, acceptance);
    let fin = segment.end.wrapping_sub(1);
    // What nobody has acknowledged may have been a stranger's.
    let is_open = entry.fin != fin && !is_acknowledged(entry, other);
    let is_moved = is_open && valid.flags & flag::FIN != 0;
    // A repeated FIN comes after the other end's, perhaps, and is not the first for that; nor is a repeated reset.
    let known = entry.flags() | if entry.ended == 0 { 0 } else { flag::SAID };
    let is_news = valid.flags & !known & !(flag::FIRST | flag::CAUSE) != 0;
    // The last one that says so has it, until one is believed.
    if is_moved || is_open && valid.flags & flag::SAID != 0 && !entry.has_ended() {
        entry.fin = fin;
    }
    if valid.flags & flag::FIN != 0 && (is_moved || !entry.has_ended())
        || valid.flags & flag::SAID != 0 && entry.ended == 0
    {
        entry.ended = valid.flags & (flag::FIN | flag::SAID | flag::FIRST);
    }
    if valid.flags & flag::RST != 0 && entry.reset == 0 {
        entry.reset = flag::RST | (valid.flags | entry.doubt) & flag::CAUSE;
    }
    if valid.flags & flag::DOUBT != 0 && entry.doubt == 0 {
        entry.doubt = flag::DOUBT | valid.flags & flag::CAUSE;
    }
    let doubted = if valid.doubted { DOUBTED } else { 0 };
    doubted | if is_moved || is_news { NEWS } else { 0 }
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
pub enum Acceptance {
    /// Nothing: it may be anybody's.
    Nothing,
    /// Nothing: it may be its sender's, and says what was true some time ago.
    Old,
    /// That its sender is there, and what it acknowledges. It says of more bytes than the other peer has room for, or of none at
    /// all: those are not taken for sent.
    Heard,
    /// That its bytes were sent, but not what it acknowledges: something before it was not seen here, or came late.
    Sent,
    /// All that it says.
    All,
    /// The same, but less was sent than is known: somebody else may have said so.
    Less,
}

/// So much beyond what is known an old packet may be, and what a peer has sent may be beyond its receiver's window.
pub const ROOM: u32 = 1 << 26;

/// Bytes that were not seen here because a processor was a packet behind another one.
const MUDDLED: u32 = 1 << 17;

/// Bytes that may be missing before a packet whose acknowledgement is right,
const GAP: u32 = 1 << 20;

/// and that may be missing, or known better, in the acknowledgement of a packet that comes next.
const FAR: u32 = 1 << 22;

/// And in both, whatever is on its way.
const FEW: u32 = 1 << 12;

/// Bytes that may be missing before a packet whose acknowledgement is one of [`FEW`].
const NEAR: u32 = 1 << 16;

/// Whether a packet may be that of the peer that it says it is from. What others send under its name must not be learnt: by it strangers
/// would decide what is believed later, what probes look like, and how many bytes were carried. The peers look at it themselves.
///
/// What counts is where both numbers stand among those that are known: what was sent on each side, and what the other side has
/// acknowledged of that. On a connection at rest each is one number. There one guess of 2^46 moves what is acknowledged, and one of 2^38
/// what was sent, which decides nothing until the other peer has acknowledged it. Where much is on its way both ways, guesses are
/// easier, and are soon overtaken by what is true ([`super::claim`] does the rest).
#[must_use]
#[inline(always)]
pub const fn validate(entry: &Entry, other: &Entry, segment: &Segment, payload: u32) -> Acceptance {
    if segment.has(tcp::SYN | tcp::RST) || !segment.has(tcp::ACK) {
        return Acceptance::Nothing;
    }
    let first = expected(entry, other);
    let flight = on_its_way(sent(entry).wrapping_sub(first));
    // One more: an end counts as a byte.
    let ended = (other.ended & flag::FIN) as u32;
    let unheard =
        on_its_way(sent(other).wrapping_add(ended).wrapping_add(other.seq).wrapping_sub(entry.acked));
    // Where it stands behind what the other peer has acknowledged, and its acknowledgement behind the last one.
    let (ahead, answer) = (segment.seq.wrapping_sub(first), segment.ack.wrapping_sub(entry.acked));
    let room = larger(room(other), flight);
    let has_room = ahead <= room && ahead + payload <= room;
    // One more: behind an end that was lost on its way here.
    let (is_next, is_answer) = (ahead <= flight + 1, answer <= unheard);
    // Of much that is on its way much may be guessed, and the next packet is not far.
    let muddled = if flight <= FEW { MUDDLED } else { 0 };
    if is_next && answer <= unheard + muddled {
        // No more bytes, and no end: it has sent nothing behind that.
        let is_short =
            ahead + 1 < flight || entry.has_ended() && before(segment.seq, entry.fin.wrapping_add(1));
        return if !has_room {
            Acceptance::Heard
        } else if payload == 0 && is_short && !segment.has(tcp::FIN) {
            Acceptance::Less
        } else {
            Acceptance::All
        };
    }
    // It begins with bytes that are acknowledged: they were sent again in one piece with those that were lost.
    let known = first.wrapping_sub(segment.seq);
    let has_more = known < payload || (known == payload && segment.has(tcp::FIN));
    if known != 0 && has_more && payload - known <= room && is_answer {
        return Acceptance::All;
    }
    if (ahead == u32::MAX || segment.end == first) && is_answer {
        // A probe of the peer's own, or its last bytes again, whose acknowledgement counts at the other end too.
        return Acceptance::Heard;
    }
    // It has overtaken few bytes, and few acknowledgements can be guessed: it may be the only one that says that an end has come.
    if is_answer && unheard <= FEW && ahead <= flight + NEAR && has_room {
        return Acceptance::All;
    }
    let is_sent = (is_answer && ahead <= flight + GAP)
        || (is_next && answer.wrapping_add(FAR) <= unheard + 2 * FAR)
        || (ahead <= flight + FEW && answer.wrapping_add(FEW) <= unheard + 2 * FEW)
        || (ahead <= 2 * flight + 1 && answer.wrapping_add(unheard) <= 3 * unheard);
    if is_sent && has_room {
        return Acceptance::Sent;
    }
    let is_old = ahead.wrapping_add(ROOM) <= room + ROOM && answer.wrapping_add(ROOM) <= unheard + 2 * ROOM;
    if is_old { Acceptance::Old } else { Acceptance::Nothing }
}

/// What an entry learns of its packet.
#[inline(always)]
pub const fn learn(entry: &mut Entry, segment: &Segment, payload: u32, acceptance: Acceptance, now_ms: u32) {
    match acceptance {
        Acceptance::All | Acceptance::Less => note(entry, segment, payload, now_ms),
        Acceptance::Heard => hear(entry, segment, now_ms),
        Acceptance::Sent => note_sent(entry, segment, payload),
        Acceptance::Old | Acceptance::Nothing => {}
    }
    // Whoever sent it, it is no reason to take the peer for gone.
    let is_sign = entry.state == state::FORWARD && segment.has(tcp::ACK) && !segment.has(tcp::SYN | tcp::RST);
    if is_sign && entry.active_ms != now_ms {
        entry.active_ms = now_ms;
    }
    if is_sign
        && matches!(acceptance, Acceptance::All | Acceptance::Heard | Acceptance::Sent)
        && entry.handover != 0
    {
        entry.handover = 0;
    }
}

/// Bytes between two numbers, where these are in order.
#[inline(always)]
const fn on_its_way(bytes: u32) -> u32 {
    if bytes <= MAX_WINDOW { bytes } else { 0 }
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

/// So far beyond what the peer of this entry has acknowledged the other one may send, with something to spare: the window may have
/// been larger.
#[inline(always)]
pub(super) const fn room(entry: &Entry) -> u32 {
    window(entry) + ROOM
}

/// In bytes.
#[inline(always)]
const fn window(entry: &Entry) -> u32 {
    (entry.window as u32) << (entry.scales()[0])
}

#[inline(always)]
const fn larger(a: u32, b: u32) -> u32 {
    if a < b { b } else { a }
}

/// Of TCP (RFC 7323).
pub(super) const MAX_WINDOW: u32 = 1 << 30;

/// Whether a connection is over as far as both entries know, so that a SYN for the same addresses begins another one.
#[must_use]
#[inline(always)]
pub const fn is_over(one: &Entry, other: &Entry) -> bool {
    one.reset | other.reset != 0 || (is_acknowledged(one, other) && is_acknowledged(other, one))
}

/// Whether the end of the stream that comes in by `entry` was acknowledged by the other end.
///
/// An end that was not believed when it came, as one that overtook much that was lost, counts if the other end has acknowledged exactly one
/// number more than there are bytes that were seen. No true peer acknowledges that of a stream that goes on.
#[must_use]
#[inline(always)]
pub const fn is_acknowledged(entry: &Entry, other: &Entry) -> bool {
    let expected = expected(entry, other);
    let is_all = entry.has_ended() || (entry.ended != 0 && expected == sent(entry).wrapping_add(1));
    is_all && expected == entry.fin.wrapping_add(1)
}

/// Whether the stream that comes in by `entry` is said to end where it has not been acknowledged to go on. Not if it goes on: then
/// that was a stranger's word.
#[must_use]
#[inline(always)]
pub const fn may_have_ended(entry: &Entry, other: &Entry) -> bool {
    (entry.has_ended() && !before(entry.fin.wrapping_add(1), expected(entry, other)))
        || is_acknowledged(entry, other)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
#[inline(always)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
#[path = "seq_validation_model.rs"]
mod model;

#[cfg(test)]
#[path = "seq_validation_attack.rs"]
mod attack;

#[cfg(test)]
#[path = "seq_validation_ends.rs"]
mod ends;

#[cfg(test)]
#[path = "seq_validation_tests.rs"]
mod tests;
