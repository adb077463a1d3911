//! Segments that the daemon itself sends to an end of a flow without sockets: a probe, or a reset.

use super::header::{Header, tcp};
use super::options::USUAL;
use super::seq_validation::{MAX_WINDOW, expected};
use super::sum::Sum;
use crate::abi::packet::{Address, Entry, Key};

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The end answers with an acknowledgement.
    Probe,
    /// The same, also if it has got less than is known, or has sent a later time stamp. A firewall on the way may drop such a question.
    Search,
    /// The end closes its connection. If it has acknowledged more than is known here, it asks back (RFC 5961), and what it says
    /// is answered by the stack, since nothing is known of the flow any more.
    Reset,
}

/// A TCP segment without payload: its bytes, of which the first `len` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crafted {
    /// See above.
    pub bytes: [u8; 32],
    /// See above.
    pub len: usize,
}

const PROTOCOL: u32 = 6;

/// What our own sockets sent last may be as much newer than what the other end's time stamps have become.
const AHEAD_MS: u32 = 1000;

/// And so much, if what is known may be wrong. Half as much again would be taken for an old one (RFC 7323, section 5.2).
const FAR_AHEAD: u32 = 1 << 30;

/// The segment for the end whose packets come in with `key` by `own`; `other` is the entry of the other end. At `now_ms` of the
/// clock that the entries know.
#[must_use]
pub fn craft(purpose: Purpose, key: &Key, own: &Entry, other: &Entry, now_ms: u32) -> Crafted {
    // What the other end has acknowledged, so that a reset in answer to it is believed.
    let ack = expected(own, other);
    let (seq, flags) = match purpose {
        // One that was acknowledged before: nothing else makes an end answer that has nothing to say.
        Purpose::Probe => (own.acked.wrapping_sub(1), tcp::ACK),
        Purpose::Search => (own.acked.wrapping_sub(MAX_WINDOW), tcp::ACK),
        Purpose::Reset => (own.acked, tcp::RST | tcp::ACK),
    };
    // A probe without time stamps may be dropped where they are in use (RFC 7323).
    let has_stamps = purpose != Purpose::Reset && own.stamped != 0;
    let words: u8 = if has_stamps { 8 } else { 5 };
    let header = Header {
        ports: [key.target_port, key.source_port],
        seq: seq.to_be(),
        ack: ack.to_be(),
        offset: words << 4,
        flags,
        window: super::header::window(other.window, other.scales()).to_be(),
        sum: 0,
        urgent: 0,
    };
    // An old time stamp is not answered. One that is too new does no harm: a segment with an old number is not remembered.
    let passed = now_ms.wrapping_sub(other.active_ms).wrapping_add(AHEAD_MS);
    let ahead = if purpose == Purpose::Search { FAR_AHEAD } else { 0 };
    let stamp = other.stamped.wrapping_add(other.stamp).wrapping_add(passed).wrapping_add(ahead);
    let stamps = [USUAL, stamp.to_be(), own.stamped.to_be()];
    let options = if has_stamps { stamps } else { [0; 3] };
    let len = usize::from(words) * 4;
    let words = words_of(&header);
    let sum = pseudo(&key.target, &key.source, len);
    let sum = words.iter().chain(&options).fold(sum, |sum, word| sum.word(*word)).checksum();
    let words = words_of(&Header { sum, ..header });
    let mut bytes = [0; 32];
    for (byte, value) in
        bytes.iter_mut().zip(words.iter().chain(&options).flat_map(|word| word.to_ne_bytes()))
    {
        *byte = value;
    }
    Crafted { bytes, len }
}

fn words_of(header: &Header) -> [u32; 5] {
    let [source, target] = header.ports.map(u16::to_ne_bytes);
    let (window, sum) = (header.window.to_ne_bytes(), header.sum.to_ne_bytes());
    [
        u32::from_ne_bytes([source[0], source[1], target[0], target[1]]),
        header.seq,
        header.ack,
        u32::from_ne_bytes([header.offset, header.flags, window[0], window[1]]),
        u32::from_ne_bytes([sum[0], sum[1], 0, 0]),
    ]
}

fn pseudo(source: &Address, target: &Address, len: usize) -> Sum {
    let len = u32::try_from(len).unwrap_or(0);
    let ends = source.iter().chain(target);
    // The words of an IPv4 address that are not on the wire.
    let skipped = if crate::abi::packet::is_ipv4(source) { 3 } else { 0 };
    let wire = ends.enumerate().filter(|(at, _)| at % 4 >= skipped).map(|(_, word)| *word);
    wire.fold(Sum::default().word(PROTOCOL.to_be()).word(len.to_be()), Sum::word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::packet::address_of;

    fn check(text: [&str; 2], purpose: Purpose, own: &Entry) -> Crafted {
        let [source, target] = text.map(|text| address_of(text.parse().unwrap()));
        let key = Key { source, target, source_port: 1, target_port: 2, padding: 0 };
        let other = Entry { window: 5, stamped: 50, stamp: 4, acked: 3520, ..Entry::default() };
        let made = craft(purpose, &key, own, &other, 6);
        // As a receiver checks it: the sum over all of it, with its checksum, is 0.
        let sum = pseudo(&target, &source, made.len);
        let words = made.bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
        assert_eq!(words.fold(sum, Sum::word).checksum(), 0, "{made:?}");
        made
    }

    #[test]
    fn a_probe_asks_for_what_was_acknowledged() {
        let own = Entry { acked: 1000, seq: 3000, stamped: 7, ..Entry::default() };
        for ends in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let probe = check(ends, Purpose::Probe, &own);
            assert_eq!(probe.len, 32);
            assert_eq!(probe.bytes[4..8], 999_u32.to_be_bytes());
            assert_eq!(probe.bytes[8..12], 520_u32.to_be_bytes());
            assert_eq!((probe.bytes[13], &probe.bytes[24..28]), (tcp::ACK, &1060_u32.to_be_bytes()[..]));
            let bare = check(ends, Purpose::Probe, &Entry { stamped: 0, ..own });
            assert_eq!((bare.len, bare.bytes[12]), (20, 0x50));
        }
    }

    #[test]
    fn a_search_is_old_and_its_time_stamp_new_wherever_its_receiver_stands() {
        let own = Entry { acked: 1000, seq: 3000, stamped: 7, ..Entry::default() };
        let made = check(["10.0.0.1", "10.0.0.2"], Purpose::Search, &own);
        assert_eq!(made.bytes[4..8], 1000_u32.wrapping_sub(1 << 30).to_be_bytes());
        assert_eq!(made.bytes[24..28], (1060_u32 + (1 << 30)).to_be_bytes());
        assert_eq!((made.len, made.bytes[13]), (32, tcp::ACK));
    }

    #[test]
    fn a_reset_is_at_what_its_receiver_expects() {
        let own = Entry { acked: 1000, seq: 2999, ..Entry::default() };
        let reset = check(["10.0.0.1", "10.0.0.2"], Purpose::Reset, &own);
        assert_eq!((reset.len, reset.bytes[13]), (20, tcp::RST | tcp::ACK));
        assert_eq!(reset.bytes[4..8], 1000_u32.to_be_bytes());
        assert_eq!(reset.bytes[8..12], 521_u32.to_be_bytes());
    }
}
