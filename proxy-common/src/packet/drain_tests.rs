use super::*;

const UP: u32 = 1_000_000;
const DOWN: u32 = 4_000_000_000;

fn socket(received: u32, sent: u32) -> Socket {
    Socket {
        state: ESTABLISHED,
        rcv_nxt: received,
        copied_seq: received,
        bytes_received: 100,
        write_seq: sent,
        snd_una: sent,
        snd_wnd: 1000,
        clock: 5000,
        ts_recent: 70,
        ..Socket::default()
    }
}

/// The client has sent up to 100, the server up to 200, on their own legs; all of it is acknowledged.
fn armed() -> Handover {
    Handover {
        seen: [1, 1],
        delta: [UP, DOWN],
        sockets: [socket(100, 200_u32.wrapping_add(DOWN)), socket(200, 100 + UP)],
        ..Handover::default()
    }
}

fn flipped(change: impl FnOnce(&mut Handover)) -> Handover {
    let mut handover = armed();
    change(&mut handover);
    assert_eq!(flip(&mut handover), Answer::Done);
    handover
}

fn data(seq: u32, len: u32, ack: u32) -> Segment {
    Segment { seq, end: seq.wrapping_add(len), ack, flags: tcp::ACK, window: 10 }
}

#[test]
fn a_flow_at_rest_is_drained_at_once() {
    let mut handover = flipped(|_| ());
    assert_eq!((handover.drained, handover.told), ([1, 1], [1, 1]));
    assert_eq!(handover.owed, [200_u32.wrapping_add(DOWN), 100 + UP]);
    assert_eq!(decide(&mut handover, false, &data(100, 5, 200_u32.wrapping_add(DOWN)), true), Way::Forward);
}

#[test]
fn a_server_has_begun_when_it_has_sent_or_acknowledged_a_byte() {
    flipped(|one| (one.sockets[1].bytes_received, one.sockets[1].snd_una) = (0, UP + 1));
    flipped(|one| (one.sockets[1].bytes_received, one.sockets[1].snd_una) = (1, UP));
}

#[test]
fn what_stands_against_a_flip_is_named() {
    type Change = fn(&mut Handover);
    let cases: [(Change, Answer); 10] = [
        (|one| one.sockets[1].state = 8, Answer::NotEstablished),
        (|one| one.reset[0] = 1, Answer::Between),
        (|one| one.sockets[0].out_of_order = 1, Answer::OutOfOrder),
        (|one| one.seen[1] = 0, Answer::Unseen),
        (|one| (one.sockets[1].bytes_received, one.sockets[1].snd_una) = (0, UP), Answer::Unseen),
        (|one| (one.has_passed[0], one.passed[0]) = (1, 101), Answer::Between),
        (|one| one.sockets[0].snd_una = one.sockets[0].snd_una.wrapping_sub(1001), Answer::Backlog),
        (|one| one.sockets[0].rcv_nxt += 1001, Answer::Backlog),
        (|one| one.phase = phase::DRAIN, Answer::Flipped),
        (|one| (one.has_passed[0], one.passed[0]) = (1, 100), Answer::Done),
    ];
    for (number, (change, answer)) in cases.into_iter().enumerate() {
        let mut handover = armed();
        change(&mut handover);
        assert_eq!(flip(&mut handover), answer, "case {number}");
    }
}

#[test]
fn until_the_flip_all_goes_to_the_socket_and_is_noted() {
    let mut handover = Handover { seen: [0, 0], ..armed() };
    for segment in [data(50, 20, 0), data(60, 0, 0), data(40, 5, 0)] {
        assert_eq!(decide(&mut handover, true, &segment, true), Way::Socket);
    }
    assert_eq!((handover.seen, handover.passed[1], handover.has_passed), ([0, 3], 70, [0, 1]));
}

/// The daemon holds 30 bytes for the client, and 40 are not acknowledged by the server.
fn busy() -> Handover {
    flipped(|one| {
        one.sockets[1].rcv_nxt += 30;
        one.sockets[1].snd_una -= 40;
    })
}

#[test]
fn old_segments_and_early_acknowledgements_go_to_the_socket() {
    let mut handover = busy();
    let owed = handover.owed[1];
    assert_eq!(handover.drained, [0, 0]);
    assert_eq!(decide(&mut handover, true, &data(220, 10, owed), true), Way::Socket, "repeated");
    assert_eq!(handover.drained, [0, 1], "but it says that all has arrived");
    let mut handover = busy();
    assert_eq!(decide(&mut handover, true, &data(230, 0, owed - 1), true), Way::Socket);
    assert_eq!(decide(&mut handover, true, &data(300, 0, owed - 1), true), Way::SocketAtEdge);
    assert_eq!(decide(&mut handover, true, &data(230, 8, owed - 1), true), Way::Both);
    assert_eq!(decide(&mut handover, true, &data(238, 8, owed), true), Way::Both);
    assert_eq!(decide(&mut handover, true, &data(246, 8, owed), true), Way::Forward, "told");
    assert_eq!(decide(&mut handover, true, &data(246, 0, owed + 5), true), Way::Forward);
    assert_eq!(handover.last_ack[0], 105, "as the client knows it");
    assert_eq!(handover.last_ack[1], 230, "the client has acknowledged nothing new");
}

#[test]
fn a_segment_across_the_edge_goes_both_ways() {
    let mut handover = busy();
    let segment = data(225, 10, handover.owed[1] - 1);
    assert_eq!(decide(&mut handover, true, &segment, true), Way::Both);
}

#[test]
fn a_reset_is_forwarded_and_noted() {
    let mut handover = busy();
    let segment = Segment { flags: tcp::RST, ..data(230, 0, 0) };
    assert_eq!(decide(&mut handover, true, &segment, true), Way::Forward);
    assert_eq!(handover.reset, [0, 1]);
}

#[test]
fn what_may_be_a_strangers_goes_to_the_other_end_alone_and_is_not_noted() {
    let mut handover = busy();
    let before = handover;
    let owed = handover.owed[1];
    for segment in [data(300, 0, owed - 1), data(300, 0, owed), data(230, 8, owed.wrapping_add(1 << 30))] {
        assert_eq!(decide(&mut handover, true, &segment, false), Way::Forward);
    }
    let reset = |seq| Segment { flags: tcp::RST, ..data(seq, 0, 0) };
    assert_eq!(decide(&mut handover, true, &reset(300), false), Way::Forward);
    assert_eq!(
        decide(&mut handover, true, &data(220, 10, owed), false),
        Way::Socket,
        "which looks at it itself"
    );
    assert_eq!(handover, before);
    assert_eq!(decide(&mut handover, true, &reset(230), false), Way::Forward);
    assert_eq!(handover.reset, [0, 1], "what our socket has told its end to send next");
}

#[test]
fn at_the_flip_an_entry_learns_where_its_socket_stands() {
    let mut entry =
        Entry { start: 90, sent: 5, acked: 7, scales: Entry::scales_of(2, 0), ..Entry::default() };
    refresh(&mut entry, &Socket { rcv_nxt: 100, snd_una: 9, snd_wnd: 1 << 20, ..Socket::default() });
    assert_eq!((entry.sent, entry.acked, entry.window), (10, 9, 0xffff));
    refresh(&mut entry, &Socket { rcv_nxt: 95, snd_una: 8, snd_wnd: 400, ..Socket::default() });
    assert_eq!((entry.sent, entry.acked, entry.window), (10, 9, 100));
}

#[test]
fn forwarded_time_stamps_are_later_than_those_of_our_sockets() {
    let handover = flipped(|_| ());
    assert_eq!(70_u32.wrapping_add(handover.stamp[0]), 5000 + MARGIN_MS);
}

#[test]
fn at_the_end_no_time_stamp_is_earlier_than_those_of_the_sockets() {
    let told = |handover: &Handover, [up, down]: [u32; 2]| {
        let [shift_up, shift_down] = handover.stamp;
        [up.wrapping_add(shift_up), down.wrapping_add(shift_down)]
    };
    for drained_ms in [0, 10, 200, 5_000, u32::MAX >> 2] {
        for ticks in [0, 1, drained_ms / 128, drained_ms] {
            let mut handover = flipped(|_| ());
            let before = handover.stamp;
            for socket in &mut handover.sockets {
                socket.clock = socket.clock.wrapping_add(drained_ms);
            }
            let stamped = [70 + ticks; 2];
            let told_before = told(&handover, stamped);
            catch_up(&mut handover, stamped);
            let sent = 5000_u32.wrapping_add(drained_ms);
            for (now, earlier) in told(&handover, stamped).into_iter().zip(told_before) {
                let ahead = now.wrapping_sub(sent);
                assert!(
                    !super::before(now, sent) && !super::before(now, earlier),
                    "{drained_ms} {ticks}: {ahead}"
                );
            }
            // One that has gone on for as long is left as it was.
            assert!(ticks < drained_ms || handover.stamp == before, "{drained_ms} {ticks}");
        }
    }
}

/// What a socket has last seen may be later than what was last forwarded.
#[test]
fn the_latest_time_stamp_of_an_end_counts() {
    let mut handover = flipped(|_| ());
    handover.sockets[1].clock += 1000;
    handover.sockets[0].ts_recent = 500;
    catch_up(&mut handover, [70, 70]);
    assert_eq!(500_u32.wrapping_add(handover.stamp[0]), 6000 + MARGIN_MS);
}
