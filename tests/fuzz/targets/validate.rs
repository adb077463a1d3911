//! Packets of any numbers at a flow in any state: what is learnt of them stays within its bounds, an end or a reset needs its number, what
//! does not fit counts once both peers say the same, and a hand-over takes no step back.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use proxy_common::abi::packet::{Answer, Entry, Handover, flag, phase, state};
use proxy_common::packet::claim::{is_strange, note_claim};
use proxy_common::packet::drain::{Way, decide, flip, refresh};
use proxy_common::packet::header::{Segment, tcp};
use proxy_common::packet::life::{bytes, most_bytes};
use proxy_common::packet::seq::before;
use proxy_common::packet::seq_validation::{
    Acceptance, ROOM, is_acknowledged, is_over, is_reset, learn, may_have_ended, record_end, validate,
    validate_flags,
};

/// The largest window of TCP (RFC 7323).
const MAX_WINDOW: i64 = 1 << 30;

fuzz_target!(|noise: &[u8]| {
    // Where the noise ends the packets do.
    let _ = look(&mut Unstructured::new(noise));
});

fn look(noise: &mut Unstructured<'_>) -> Result<()> {
    let mut entries = [entry(noise)?, entry(noise)?];
    let mut handover = handover(noise)?;
    while !noise.is_empty() {
        let second: bool = noise.arbitrary()?;
        let [client, server] = entries;
        let (mut entry, mut other) = if second { (server, client) } else { (client, server) };
        let (segment, payload) = packet(noise, &entry, &other)?;
        let mut trusted = validate(&entry, &other, &segment, payload);
        stranger(&entry, &other, &segment, trusted);
        if matches!(trusted, Acceptance::Nothing | Acceptance::Old | Acceptance::Less)
            && claim(&mut entry, &mut other, &segment)
        {
            trusted = Acceptance::All;
        }
        told(&entry, &other, &segment, trusted);
        let _ = record_end(&mut entry, &other, &segment, trusted);
        see(&mut entry, &segment, payload, trusted, noise.arbitrary()?);
        assert!(!is_acknowledged(&entry, &other) || may_have_ended(&entry, &other));
        assert!(most_bytes(&entry, &other) >= bytes(&entry, &other));
        let _ = is_over(&entry, &other);
        entries = if second { [other, entry] } else { [entry, other] };
        if noise.ratio(1, 8)? {
            let [client, server] = &mut entries;
            refresh(client, &handover.sockets[0]);
            refresh(server, &handover.sockets[1]);
        }
        drain(
            &mut handover,
            second,
            &segment,
            matches!(trusted, Acceptance::All | Acceptance::Less | Acceptance::Heard)
                || is_reset(&entry, &other, &segment),
        );
    }
    Ok(())
}

fn words<const N: usize>(noise: &mut Unstructured<'_>) -> Result<[u32; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = noise.arbitrary()?;
    }
    Ok(words)
}

fn entry(noise: &mut Unstructured<'_>) -> Result<Entry> {
    let entry = Entry::from_words(&words(noise)?);
    // Larger scales no connection agrees on (RFC 7323), and 2^60 bytes take most of a year at 400 Gbit/s.
    Ok(Entry {
        state: noise.int_in_range(state::FORWARD..=state::HELD)?,
        leg: entry.leg & 1,
        sent: entry.sent >> 4,
        scales: Entry::scales_of((entry.scales & 15) % 15, (entry.scales >> 4) % 15),
        ended: flags(entry.ended, flag::FIN, flag::FIRST)
            | flags(entry.ended & !flag::FIN, flag::SAID, flag::FIRST),
        reset: flags(entry.reset, flag::RST, flag::CAUSE),
        doubt: flags(entry.doubt, flag::DOUBT, flag::CAUSE),
        ..entry
    })
}

/// A flag with what it may have beside it, or none.
const fn flags(of: u8, flag: u8, beside: u8) -> u8 {
    if of & flag == 0 { 0 } else { of & (flag | beside) }
}

/// About to be flipped, or flipped: of all numbers hardly one would be such a hand-over.
fn handover(noise: &mut Unstructured<'_>) -> Result<Handover> {
    let mut handover = Handover::from_words(&words(noise)?);
    for socket in &mut handover.sockets {
        socket.state = noise.int_in_range(0..=1)?;
        socket.out_of_order = u32::from(noise.ratio(1, 8)?);
    }
    handover.reset = [0; 2];
    handover.drained = [noise.int_in_range(0..=1)?, noise.int_in_range(0..=1)?];
    handover.told = handover.drained;
    handover.phase = if noise.arbitrary()? { phase::ARMED } else { phase::DRAIN };
    Ok(handover)
}

/// Near what is expected, as often as not: of all numbers hardly one is.
fn packet(noise: &mut Unstructured<'_>, entry: &Entry, other: &Entry) -> Result<(Segment, u32)> {
    let (seq, ack): (u32, u32) = (noise.arbitrary()?, noise.arbitrary()?);
    let near: u8 = noise.arbitrary()?;
    let mask = (1 << (near & 31)) - 1;
    let seq = if near & 32 == 0 { other.acked.wrapping_sub(entry.seq).wrapping_add(seq & mask) } else { seq };
    let ack = if near & 64 == 0 { entry.acked.wrapping_add(ack & mask) } else { ack };
    let flags: u8 = noise.arbitrary()?;
    let payload = u32::from(noise.arbitrary::<u16>()?);
    let fin = u32::from(flags & tcp::FIN);
    let end = seq.wrapping_add(payload).wrapping_add(fin);
    Ok((Segment { seq, end, ack, flags, window: noise.arbitrary()? }, payload))
}

/// Of a packet whose numbers no peer may have by now nothing is learnt, and what it acknowledges only if the number stands among those that
/// are known to have been sent, or next to them, and the packet reaches as far as what was acknowledged of its sender.
fn stranger(entry: &Entry, other: &Entry, segment: &Segment, trusted: Acceptance) {
    let ahead = i64::from(segment.seq.wrapping_sub(other.acked.wrapping_sub(entry.seq)).cast_signed());
    let known = i64::from(segment.ack.wrapping_sub(entry.acked).cast_signed());
    let room = i64::from(ROOM);
    // A late packet acknowledges less than is known, by no more than was on its way.
    let is_strange =
        !(-room..=2 * MAX_WINDOW).contains(&ahead) || !(-MAX_WINDOW..=2 * MAX_WINDOW).contains(&known);
    let says_nothing = segment.has(tcp::SYN | tcp::RST) || !segment.has(tcp::ACK);
    assert!(!(is_strange || says_nothing) || trusted == Acceptance::Nothing, "{trusted:?}: {ahead} {known}");
    if matches!(trusted, Acceptance::All | Acceptance::Less | Acceptance::Heard) {
        let reaches = ahead + i64::from(segment.end.wrapping_sub(segment.seq));
        assert!(reaches >= -1 && known >= 0, "{trusted:?}: {ahead} {reaches} {known}");
    }
}

/// Both peers agree only if each names the very numbers of the other one; then both entries say the same.
fn claim(entry: &mut Entry, other: &mut Entry, segment: &Segment) -> bool {
    let was = (*entry, *other);
    let agreed = note_claim(entry, other, segment);
    if agreed {
        assert!(is_strange(&was.1) && !is_strange(entry) && !is_strange(other));
        assert_eq!((entry.acked, other.acked), (segment.ack, segment.seq.wrapping_add(entry.seq)));
    } else {
        let kept = Entry { handover: was.0.handover, ..*entry };
        assert_eq!((kept, *other), was, "learnt of one peer alone");
        assert!(entry.state == state::FORWARD || entry.handover == was.0.handover, "a time is no claim");
    }
    agreed
}

fn told(entry: &Entry, other: &Entry, segment: &Segment, trusted: Acceptance) {
    let valid = validate_flags(entry, other, segment, trusted);
    let expected = other.acked.wrapping_sub(entry.seq);
    assert_eq!(valid.flags & flag::RST != 0, segment.has(tcp::RST) && segment.seq == expected);
    assert!(
        valid.flags & flag::FIN == 0
            || (segment.has(tcp::FIN)
                && matches!(trusted, Acceptance::All | Acceptance::Sent | Acceptance::Less))
    );
    assert!(valid.flags == 0 || segment.has(tcp::FIN | tcp::RST));
    let said = |flags| flags & (flag::RST | flag::DOUBT) != 0;
    assert_eq!(valid.flags & flag::CAUSE != 0, said(valid.flags) && !said(other.flags()));
}

/// Counts go up, acknowledgements go on, and a packet that is not believed leaves no trace but that it came.
fn see(entry: &mut Entry, segment: &Segment, payload: u32, trusted: Acceptance, now_ms: u32) {
    let was = *entry;
    learn(entry, segment, payload, trusted, now_ms);
    let (all, heard) = (matches!(trusted, Acceptance::All | Acceptance::Less), trusted == Acceptance::Heard);
    assert!(entry.sent >= was.sent, "fewer bytes than before");
    assert!(entry.sent - was.sent < 1 << 31, "more bytes than any packet says");
    assert!(!before(entry.acked, was.acked), "an acknowledgement taken back");
    assert!(
        all || trusted == Acceptance::Sent || entry.sent == was.sent,
        "bytes of a packet that was only heard"
    );
    assert!(all || heard || (entry.acked, entry.window) == (was.acked, was.window));
    assert!(entry.handover == was.handover || (entry.state == state::FORWARD && entry.handover == 0));
    let kept = Entry {
        sent: was.sent,
        acked: was.acked,
        window: was.window,
        active_ms: was.active_ms,
        handover: was.handover,
        doubt: was.doubt,
        ..*entry
    };
    assert_eq!(kept, was, "something else has changed");
}

fn drain(handover: &mut Handover, second: bool, segment: &Segment, trusted: bool) {
    let was = *handover;
    let way = decide(handover, second, segment, trusted);
    if was.phase != phase::DRAIN {
        assert_eq!(way, Way::Socket, "before the flip all is the sockets'");
        assert!(matches!(flip(handover), Answer::Done) == (handover.phase == phase::DRAIN));
        return;
    }
    for leg in [0, 1] {
        let of = |pair: [u32; 2]| pair.get(leg).copied().unwrap_or(0);
        assert!(of(handover.drained) >= of(was.drained) && of(handover.told) >= of(was.told));
        assert!(of(handover.reset) >= of(was.reset), "a reset taken back");
        // Of two numbers with half of all numbers between them either is the later one.
        let step = of(handover.last_ack).wrapping_sub(of(was.last_ack)).cast_signed();
        assert!(step >= 0 || step == i32::MIN, "an acknowledgement taken back");
        assert!(of(handover.told) == 0 || of(handover.drained) != 0, "told of what has not drained");
    }
    assert!(
        trusted || matches!(way, Way::Forward | Way::Socket),
        "a stranger's word for our socket: {way:?}"
    );
    if !trusted && !segment.has(tcp::RST) {
        assert_eq!(*handover, was, "something learnt of a stranger");
    }
    assert_eq!((handover.received, handover.owed), (was.received, was.owed), "the flip itself has moved");
}
