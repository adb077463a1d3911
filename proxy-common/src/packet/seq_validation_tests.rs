use super::*;
use crate::packet::seq::place;

/// 100 bytes sent from sequence number 1000 on, 60 of them acknowledged, by a receiver whose window is 64 bytes; on the other
/// leg the numbers are 500 higher.
fn entries() -> [Entry; 2] {
    let entry = Entry { start: 1000, sent: 100, seq: 500, acked: 7000, ..Entry::default() };
    let back = 0_u32.wrapping_sub(500);
    let other =
        Entry { acked: 1560, ack: back, window: 32, scales: Entry::scales_of(1, 0), ..Entry::default() };
    [entry, other]
}

fn with(flags: u8, seq: u32) -> Segment {
    Segment { seq, flags, ..Segment::default() }
}

#[test]
fn an_end_is_believed_of_a_packet_that_may_be_its_senders() {
    let [entry, other] = entries();
    let end = with(tcp::FIN | tcp::ACK, 1060);
    for (acceptance, flags) in [
        (Acceptance::All, flag::FIN | flag::FIRST),
        (Acceptance::Sent, flag::FIN | flag::FIRST),
        (Acceptance::Heard, flag::SAID | flag::FIRST),
        (Acceptance::Old, flag::SAID | flag::FIRST),
        (Acceptance::Nothing, 0),
    ] {
        let doubted = flags & flag::FIN == 0;
        assert_eq!(
            validate_flags(&entry, &other, &end, acceptance),
            ValidFlags { flags, doubted },
            "{acceptance:?}"
        );
    }
    let after = Entry { ended: flag::FIN, fin: 7500, ..other };
    assert_eq!(validate_flags(&entry, &after, &end, Acceptance::All).flags, flag::FIN);
    let goes_on = Entry { fin: 6400, ..after };
    assert_eq!(
        validate_flags(&entry, &goes_on, &end, Acceptance::All).flags,
        flag::FIN | flag::FIRST,
        "that was no end"
    );
}

#[test]
fn a_reset_is_believed_with_the_number_that_was_asked_for() {
    let [entry, other] = entries();
    for (seq, flags) in [(1059, flag::DOUBT), (1060, flag::RST), (1100, flag::DOUBT), (0x8000_0000, 0)] {
        let valid = validate_flags(&entry, &other, &with(tcp::RST, seq), Acceptance::Nothing);
        let cause = if flags == 0 { 0 } else { flag::CAUSE };
        assert_eq!((valid.flags, valid.doubted), (flags | cause, flags != flag::RST), "{seq}");
        for before in [flag::RST, flag::DOUBT] {
            let said = other.with(before);
            assert_eq!(
                validate_flags(&entry, &said, &with(tcp::RST, seq), Acceptance::Nothing).flags,
                flags,
                "{seq}"
            );
        }
    }
    let ended = Entry { ended: flag::FIN, fin: 1100, ..entry };
    let knows = Entry { acked: 1601, ..other };
    let behind = with(tcp::RST, 1101);
    let believed = validate_flags(&ended, &knows, &behind, Acceptance::Nothing).flags;
    assert_eq!(believed, flag::RST | flag::CAUSE, "behind its own end");
    let data = with(tcp::ACK, 1);
    assert_eq!(
        validate_flags(&entry, &other, &data, Acceptance::Nothing),
        ValidFlags { flags: 0, doubted: false }
    );
}

/// The same, and the other end has sent up to 7900, which is 7400 on this leg.
fn both_ways() -> [Entry; 2] {
    let [entry, other] = entries();
    [entry, Entry { start: 7800, sent: 100, seq: 0_u32.wrapping_sub(500), ..other }]
}

/// At rest: all that was sent is acknowledged.
fn at_rest() -> [Entry; 2] {
    let [entry, other] = both_ways();
    [Entry { acked: 7400, ..entry }, Entry { acked: 1600, ..other }]
}

fn says(seq: u32, ack: u32) -> Segment {
    Segment { ack, end: seq, ..with(tcp::ACK, seq) }
}

#[test]
fn at_rest_a_packet_is_all_believed_with_two_very_numbers() {
    let [entry, other] = at_rest();
    let judge = |seq, ack, payload| validate(&entry, &other, &says(seq, ack), payload);
    assert_eq!(judge(1100, 7400, 0), Acceptance::All);
    assert_eq!(judge(1100, 7400, 1400), Acceptance::All);
    assert_eq!(judge(1101, 7400, 0), Acceptance::All, "behind an end that was lost");
    assert_eq!(judge(1099, 7400, 0), Acceptance::Heard, "a probe of the peer's own");
    assert_eq!(judge(1098, 7400, 0), Acceptance::Old);
    assert_eq!(judge(1100, 7399, 9), Acceptance::Sent, "overtaken by a later acknowledgement");
    assert_eq!(judge(1100, 7400 + FAR, 9), Acceptance::Sent);
    assert_eq!(judge(1100, 7401 + FAR, 9), Acceptance::Old);
    assert_eq!(judge(1100 + GAP, 7400, 9), Acceptance::Sent, "what came before was lost");
    assert_eq!(judge(1101 + GAP, 7400, 9), Acceptance::Old);
    assert_eq!(judge(1100 + FEW, 7400 + FEW, 9), Acceptance::Sent);
    assert_eq!(judge(1100 + FEW, 7401 + FEW, 9), Acceptance::Old);
    for far in [ROOM + 65, 0x8000_0000, 0_u32.wrapping_sub(ROOM + 1)] {
        assert_eq!(judge(1100_u32.wrapping_add(far), 7400, 0), Acceptance::Nothing, "{far}");
    }
    for far in [ROOM + 1, 0x8000_0000, 0_u32.wrapping_sub(ROOM + 1)] {
        assert_eq!(judge(1100, 7400_u32.wrapping_add(far), 0), Acceptance::Nothing, "{far}");
    }
    for flags in [tcp::PSH, tcp::SYN | tcp::ACK, tcp::RST | tcp::ACK] {
        assert_eq!(validate(&entry, &other, &Segment { flags, ..says(1100, 7400) }, 0), Acceptance::Nothing);
    }
}

/// A sender that has lost a packet puts what it has to send again into one.
#[test]
fn an_end_that_comes_again_with_bytes_that_are_acknowledged_is_noted() {
    for (seq, payload) in [(1095, 15), (1099, 11), (1099, 1), (1090, 10), (1000, 110)] {
        let [mut entry, mut other] = at_rest();
        let end = seq + payload + 1;
        let again = Segment { end, ..says(seq, 7400) };
        let again = Segment { flags: tcp::FIN | tcp::ACK, ..again };
        let acceptance = validate(&entry, &other, &again, payload);
        assert_eq!(acceptance, Acceptance::All, "{seq} {payload}");
        assert_eq!(record_end(&mut entry, &other, &again, acceptance), NEWS);
        learn(&mut entry, &again, payload, acceptance, 1);
        other.acked = end + 500;
        assert!(is_acknowledged(&entry, &other), "{seq} {payload}");
    }
    let [entry, other] = at_rest();
    let judge = |seq, ack, payload| validate(&entry, &other, &says(seq, ack), payload);
    assert_eq!(judge(1095, 7400, 15), Acceptance::All, "new bytes behind known ones");
    assert_eq!(judge(1095, 7400, 4), Acceptance::Old, "known bytes alone");
    let last = Segment { end: 1100, ..says(1095, 7400) };
    assert_eq!(validate(&entry, &other, &last, 5), Acceptance::Heard, "the last of them");
    assert_eq!(judge(1099, 7400, 1), Acceptance::Heard, "a probe with a byte");
    assert_eq!(judge(1095, 0x1000_0000, 15), Acceptance::Nothing, "acknowledged by a stranger");
}

#[test]
fn what_is_on_its_way_leaves_as_much_room() {
    // 40 bytes each way are not acknowledged.
    let [entry, other] = both_ways();
    let entry = Entry { acked: 7360, ..entry };
    let judge = |seq, ack| validate(&entry, &other, &says(seq, ack), 7);
    for seq in [1060, 1080, 1101] {
        for ack in [7360, 7380, 7400] {
            assert_eq!(judge(seq, ack), Acceptance::All);
        }
    }
    assert_eq!(judge(1100, 7401), Acceptance::All, "a processor was behind another one");
    assert_eq!(validate(&entry, &other, &says(1080, 7360), 0), Acceptance::Less, "has that been sent?");
    let ended = Entry { ended: flag::FIN, fin: 7900, ..other };
    let busy = Entry { sent: 2 * u64::from(FEW), ..entry };
    assert_eq!(validate(&busy, &ended, &says(1100, 7401), 5), Acceptance::All);
    assert_eq!(
        validate(&busy, &ended, &says(1100, 7402), 5),
        Acceptance::Sent,
        "too much is on its way to take it"
    );
    let ends = Entry { ended: flag::FIN, fin: 1100, ..entry };
    assert_eq!(validate(&ends, &other, &says(1101, 7400), 0), Acceptance::All);
    assert_eq!(validate(&ends, &other, &says(1100, 7400), 0), Acceptance::Less, "has it ended?");
}

#[test]
fn bytes_that_nobody_has_room_for_were_not_sent() {
    let [entry, other] = at_rest();
    let far = ROOM + 64;
    let entry = Entry { sent: u64::from(far) + 100, ..entry };
    assert_eq!(validate(&entry, &other, &says(1100 + far, 7400), 0), Acceptance::All);
    assert_eq!(validate(&entry, &other, &says(1100 + far, 7400), 1), Acceptance::Heard);
    let shut = Entry { window: 0, ..other };
    assert_eq!(validate(&entry, &shut, &says(1100 + far, 7400), 0), Acceptance::All, "they are known");
}

#[test]
fn what_is_believed_is_learnt_and_whatever_comes_is_a_sign() {
    let [entry, _] = at_rest();
    let entry = Entry { state: state::FORWARD, handover: 7, ..entry };
    let segment = Segment { window: 9, ..says(1100, 7500) };
    for (acceptance, [sent, acked, window, claim]) in [
        (Acceptance::All, [150, 7500, 9, 0]),
        (Acceptance::Less, [150, 7500, 9, 7]),
        (Acceptance::Sent, [150, 7400, 0, 0]),
        (Acceptance::Heard, [100, 7500, 9, 0]),
        (Acceptance::Old, [100, 7400, 0, 7]),
        (Acceptance::Nothing, [100, 7400, 0, 7]),
    ] {
        let mut now = entry;
        learn(&mut now, &segment, 50, acceptance, 5);
        let learnt = [u32::try_from(now.sent).unwrap(), now.acked, now.window.into(), now.handover];
        assert_eq!((learnt, now.active_ms), ([sent, acked, window, claim], 5), "{acceptance:?}");
    }
    let mut held = Entry { state: state::HELD, ..entry };
    learn(&mut held, &segment, 50, Acceptance::Old, 5);
    assert_eq!((held.active_ms, held.handover), (0, 7));
    let mut reset = entry;
    learn(&mut reset, &Segment { flags: tcp::RST | tcp::ACK, ..segment }, 0, Acceptance::Nothing, 5);
    assert_eq!(reset.active_ms, 0);
}

#[test]
fn it_is_over_when_both_ends_are_acknowledged_or_one_has_reset() {
    let [mut entry, mut other] = entries();
    assert!(!is_over(&entry, &other));
    (entry.ended, entry.fin) = (flag::FIN, 1100);
    assert!(!is_acknowledged(&entry, &other), "60 of 100 bytes are");
    let beyond = Entry { acked: 1700, ..other };
    assert!(!is_acknowledged(&entry, &beyond), "a false end: the stream went on");
    other.acked = 1600;
    assert!(!is_acknowledged(&entry, &other), "the bytes are, the end is not");
    assert!(may_have_ended(&entry, &other) && !may_have_ended(&entry, &beyond));
    other.acked = 1601;
    assert!(is_acknowledged(&entry, &other) && may_have_ended(&entry, &other) && !is_over(&entry, &other));
    (other.ended, other.seq, other.fin) = (flag::FIN, 0_u32.wrapping_sub(7), 7006);
    entry.acked = 7000;
    assert!(is_over(&entry, &other));
    let reset = Entry { reset: flag::RST, ..Entry::default() };
    assert!(is_over(&reset, &Entry::default()) && is_over(&Entry::default(), &reset));
}

/// A peer's last bytes are lost on their way here, but for its FIN, which bears an old acknowledgement.
#[test]
fn an_end_that_overtook_what_was_lost_counts_once_all_before_it_is_seen_and_acknowledged() {
    let [mut entry, mut other] = entries();
    let fin = 1060 + 90_000;
    let late = with(tcp::FIN | tcp::ACK, fin);
    let end = Segment { end: fin + 1, ack: entry.acked.wrapping_sub(60_000), ..late };
    assert_eq!(validate(&entry, &other, &end, 0), Acceptance::Old);
    assert_eq!(record_end(&mut entry, &other, &end, Acceptance::Old), NEWS | DOUBTED);
    assert_eq!((entry.ended, entry.fin), (flag::SAID | flag::FIRST, fin));
    assert_eq!(record_end(&mut entry, &other, &end, Acceptance::Old), DOUBTED, "the same again is no news");
    assert!(!is_acknowledged(&entry, &other) && !may_have_ended(&entry, &other));
    // It was acknowledged, and not all that is before it was seen: that may be the word of a stranger at a place where the stream goes on.
    other.acked = fin.wrapping_add(1).wrapping_add(entry.seq);
    assert!(!is_acknowledged(&entry, &other));
    entry.sent = place(entry.sent, entry.start, fin);
    assert!(is_acknowledged(&entry, &other) && may_have_ended(&entry, &other));
    for at in [fin - 1, fin + 1, fin - 2000] {
        let stranger = Segment { end: at + 1, ..with(tcp::FIN | tcp::ACK, at) };
        let _ = record_end(&mut entry, &other, &stranger, Acceptance::Old);
        assert!(is_acknowledged(&entry, &other), "a stranger's word moves no end that is acknowledged: {at}");
    }
    other.acked = other.acked.wrapping_sub(1);
    assert!(!is_acknowledged(&entry, &other), "all but the end");
}

#[test]
fn the_word_of_a_stranger_is_no_end_of_a_stream_that_goes_on() {
    let [mut entry, mut other] = entries();
    for next in 1100..1140 {
        let said = Segment { end: next + 1, ..with(tcp::FIN | tcp::ACK, next) };
        let _ = record_end(&mut entry, &other, &said, Acceptance::Old);
        assert_eq!(entry.ended & !flag::FIRST, flag::SAID);
        // The peer's next byte, and its acknowledgement: of one number more than the stranger's place, and just the byte that was seen.
        entry.sent = place(entry.sent, entry.start, next + 1);
        other.acked = entry.seq.wrapping_add(next + 1);
        assert!(!is_acknowledged(&entry, &other) && !may_have_ended(&entry, &other), "{next}");
    }
    let end = Segment { end: 1141, ..with(tcp::FIN | tcp::ACK, 1140) };
    assert_eq!(record_end(&mut entry, &other, &end, Acceptance::All), NEWS);
    assert!(entry.has_ended() && entry.fin == 1140);
    let _ = record_end(
        &mut entry,
        &other,
        &Segment { end: 1130, ..with(tcp::FIN | tcp::ACK, 1129) },
        Acceptance::Old,
    );
    assert!(entry.has_ended() && entry.fin == 1140, "a word moves no end that was believed");
}
