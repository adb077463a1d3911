//! How what is known of a connection becomes right again, if packets of its peers stop fitting it.
//!
//! Of a packet that does not fit, its entry keeps a digest of what it says: where its sender stands, and what that has got. If the next
//! packet of the other peer says the very same from its side, and the next one of the first peer again, that is true: the numbers of the
//! two connections differ by two secrets of 32 bits, so that nobody who does not see them can speak for both peers at once. Between
//! peers with nothing on its way each answer to a probe is such a packet.
//!
//! A host that floods the connection meanwhile overwrites these digests. Then nothing is learnt until it pauses, and nothing is ended
//! for that.

use super::header::{Segment, tcp};
use super::seq::place;
use super::seq_validation::may_have_ended;
use crate::abi::packet::{Entry, flag, state};

/// Bits of [`Entry::handover`] while packets are forwarded. The others are the digest.
mod bit {
    /// The last packet did not fit. Always set in a claim.
    pub(super) const CLAIM: u32 = 1;
    /// It confirmed a claim of the other peer.
    pub(super) const CONFIRMS: u32 = 2;
    /// It ended its stream.
    pub(super) const ENDS: u32 = 4;
    /// The claim that it confirmed ended its stream.
    pub(super) const ENDED: u32 = 8;
    pub(super) const ALL: u32 = 15;
}

/// Whether the last packet of this peer did not fit what is known.
#[must_use]
#[inline(always)]
pub const fn is_strange(entry: &Entry) -> bool {
    entry.state == state::FORWARD && entry.handover != 0
}

/// Notes what a packet says that does not fit. Whether both peers agree on it: then both entries say the same now.
#[inline(always)]
pub const fn note_claim(entry: &mut Entry, other: &mut Entry, segment: &Segment) -> bool {
    if entry.state != state::FORWARD || segment.has(tcp::SYN | tcp::RST) || !segment.has(tcp::ACK) {
        return false;
    }
    // In another state the word has a time.
    let said = if other.state == state::FORWARD { other.handover } else { 0 };
    let confirms = said & bit::CONFIRMS != 0;
    let answer = digest(in_common(entry, other, segment.seq, segment.ack), confirms);
    let is_confirmed = said & bit::CLAIM != 0 && said & !bit::ALL == answer;
    if is_confirmed && confirms {
        agree(entry, other, segment, said);
        (entry.handover, other.handover) = (0, 0);
        return true;
    }
    let mut claim = bit::CLAIM | digest(in_common(entry, other, segment.end, segment.ack), is_confirmed);
    if segment.has(tcp::FIN) {
        claim |= bit::ENDS;
    }
    if is_confirmed {
        claim |= bit::CONFIRMS;
        if said & bit::ENDS != 0 {
            claim |= bit::ENDED;
        }
    }
    entry.handover = claim;
    false
}

/// The other peer has got all before this packet, whose sender has got all that the other one sent.
#[inline(always)]
const fn agree(entry: &mut Entry, other: &mut Entry, segment: &Segment, said: u32) {
    let other_end = segment.ack.wrapping_sub(other.seq);
    entry.acked = segment.ack;
    other.acked = segment.seq.wrapping_add(entry.seq);
    entry.sent = place(entry.sent, entry.start, segment.seq);
    other.sent = place(other.sent, other.start, other_end);
    take_back(entry, segment.seq);
    take_back(other, other_end);
    if said & bit::ENDED != 0 {
        end(entry, other, segment.seq.wrapping_sub(1));
    }
    if said & bit::ENDS != 0 {
        end(other, entry, other_end.wrapping_sub(1));
    }
}

/// An end elsewhere was a stranger's word.
#[inline(always)]
const fn take_back(entry: &mut Entry, next: u32) {
    if entry.ended != 0 && entry.fin.wrapping_add(1) != next {
        entry.ended = 0;
    }
}

#[inline(always)]
const fn end(entry: &mut Entry, other: &Entry, fin: u32) {
    entry.sent = place(entry.sent, entry.start, fin);
    entry.fin = fin;
    if !entry.has_ended() {
        entry.ended = if may_have_ended(other, entry) { flag::FIN } else { flag::FIN | flag::FIRST };
    }
}

/// Where the client stands and where the server does, in the numbers of the client's connection.
#[inline(always)]
const fn in_common(entry: &Entry, other: &Entry, own: u32, ack: u32) -> u64 {
    if entry.leg == 0 {
        join(own, ack)
    } else {
        join(ack.wrapping_sub(other.seq), own.wrapping_add(entry.seq))
    }
}

const fn join(client: u32, server: u32) -> u64 {
    (client as u64) << 32 | server as u64
}

/// Two digests: a pair of packets that is taken for equal by one of them is not by the other one.
#[inline(always)]
const fn digest(pair: u64, confirms: bool) -> u32 {
    let factor = if confirms { 0xd6e8_feb8_6659_fd93 } else { 0x9e37_79b9_7f4a_7c15 };
    ((pair.wrapping_mul(factor) >> 36) as u32) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELTA: [u32; 2] = [0x1234_5678, 0x9abc_def0];

    /// Both peers stand `by` bytes further than is known.
    fn flow(by: [u32; 2]) -> ([Entry; 2], [Segment; 2]) {
        let entry = |leg: u8, start: u32, seq: u32, acked: u32| Entry {
            state: state::FORWARD,
            leg,
            start,
            seq,
            acked,
            sent: 100,
            ..Entry::default()
        };
        let entries = [
            entry(0, 1000, DELTA[0], 5100_u32.wrapping_add(DELTA[1])),
            entry(1, 5000, DELTA[1], 1100_u32.wrapping_add(DELTA[0])),
        ];
        let [client, server] = [1100_u32.wrapping_add(by[0]), 5100_u32.wrapping_add(by[1])];
        let says = |seq, ack| Segment { seq, end: seq, ack, flags: tcp::ACK, window: 5 };
        let segments =
            [says(client, server.wrapping_add(DELTA[1])), says(server, client.wrapping_add(DELTA[0]))];
        (entries, segments)
    }

    fn claim(entries: &mut [Entry; 2], leg: usize, segment: &Segment) -> bool {
        let [client, server] = entries;
        if leg == 0 { note_claim(client, server, segment) } else { note_claim(server, client, segment) }
    }

    /// While packets are held, the word of a claim has the time since when.
    #[test]
    fn a_time_of_the_other_entry_is_no_claim() {
        let (mut entries, says) = flow([0, 700]);
        for leg in [0, 1] {
            assert!(!claim(&mut entries, leg, &says[leg]));
        }
        entries[1].state = state::HELD;
        let was = entries[1];
        assert!(!claim(&mut entries, 0, &says[0]));
        assert_eq!(entries[1], was, "the time stays");
    }

    #[test]
    fn peers_that_say_the_same_are_believed_wherever_they_stand() {
        for by in [[5, 9], [0_u32.wrapping_sub(70), 3], [1 << 30, 1 << 29]] {
            for order in [[0, 1, 0], [1, 0, 1]] {
                let (mut entries, says) = flow(by);
                for (number, leg) in order.into_iter().enumerate() {
                    assert_eq!(claim(&mut entries, leg, &says[leg]), number == 2, "{by:?} {order:?}");
                    assert_eq!(is_strange(&entries[leg]), number < 2);
                }
                let [client, server] = &entries;
                let place = |by: u32| 100_u64.saturating_add_signed(by.cast_signed().into());
                assert_eq!([client.sent, server.sent], by.map(place));
                assert_eq!([client.acked, server.acked], [says[0].ack, says[1].ack]);
            }
        }
    }

    #[test]
    fn one_peer_alone_and_peers_that_differ_are_not() {
        for (leg, differ) in [(0, [0, 0]), (1, [1, 0]), (1, [0, 1]), (1, [u32::MAX, 1])] {
            let (mut entries, says) = flow([5, 9]);
            let was = entries;
            for number in 0..10 {
                let leg = if number % 2 == 0 { 0 } else { leg };
                let mut segment = says[leg];
                if leg == 1 {
                    segment.seq = segment.seq.wrapping_add(differ[0]);
                    segment.ack = segment.ack.wrapping_add(differ[1]);
                }
                assert!(!claim(&mut entries, leg, &segment), "{differ:?}");
            }
            let kept = [0, 1].map(|leg| Entry { handover: 0, ..entries[leg] });
            assert_eq!(kept, was);
        }
    }

    #[test]
    fn what_comes_between_them_breaks_it_off() {
        let (mut entries, says) = flow([5, 9]);
        let strange = Segment { seq: 77, end: 77, ..says[0] };
        for segment in [&says[0], &strange] {
            assert!(!claim(&mut entries, 0, segment) && !claim(&mut entries, 1, &says[1]));
        }
        assert!(!claim(&mut entries, 0, &says[0]), "the claim of the server confirmed nothing");
        assert!(claim(&mut entries, 1, &says[1]));
    }

    #[test]
    fn ends_that_both_know_are_learnt_with_it() {
        let (mut entries, [client, server]) = flow([5, 9]);
        let fin = |segment: Segment| Segment {
            end: segment.end.wrapping_add(1),
            flags: tcp::FIN | tcp::ACK,
            ..segment
        };
        let knows = |segment: Segment| Segment { ack: segment.ack.wrapping_add(1), ..segment };
        assert!(!claim(&mut entries, 0, &fin(client)));
        assert!(!claim(&mut entries, 1, &fin(knows(server))));
        let last =
            Segment { seq: client.seq.wrapping_add(1), end: client.seq.wrapping_add(1), ..knows(client) };
        assert!(claim(&mut entries, 0, &last));
        let [client, server] = &entries;
        assert_eq!((client.ended, server.ended), (flag::FIN | flag::FIRST, flag::FIN));
        assert_eq!((client.sent, server.sent), (105, 109));
        assert!(crate::packet::seq_validation::is_over(client, server));
    }

    #[test]
    fn an_end_that_neither_knows_of_is_taken_back() {
        let (mut entries, says) = flow([5, 9]);
        entries[0] = Entry { ended: flag::FIN | flag::FIRST, fin: 1300, ..entries[0] };
        entries[1] = Entry { ended: flag::FIN, fin: 5108, ..entries[1] };
        for leg in [0, 1, 0] {
            let _ = claim(&mut entries, leg, &says[leg]);
        }
        assert_eq!([entries[0].ended, entries[1].ended], [0, flag::FIN], "and one that both know stays");
    }

    #[test]
    fn a_blind_host_that_speaks_for_both_is_not_believed() {
        let (mut entries, _) = flow([5, 9]);
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            u32::try_from(state >> 32).unwrap()
        };
        for number in 0..2_000_000_u32 {
            let (seq, ack) = if number % 2 == 0 { (77, 99) } else { (next(), next()) };
            let segment = Segment { seq, end: seq, ack, flags: tcp::ACK, window: 5 };
            assert!(!claim(&mut entries, usize::from(number % 2 != 0), &segment), "{segment:?}");
        }
    }

    #[test]
    fn packets_that_are_held_and_flags_without_numbers_claim_nothing() {
        let (mut entries, says) = flow([5, 9]);
        for flags in [tcp::SYN | tcp::ACK, tcp::RST | tcp::ACK, tcp::PSH] {
            assert!(!claim(&mut entries, 0, &Segment { flags, ..says[0] }) && entries[0].handover == 0);
        }
        entries[0].state = state::HELD;
        assert!(!claim(&mut entries, 0, &says[0]) && entries[0].handover == 0 && !is_strange(&entries[0]));
    }
}
