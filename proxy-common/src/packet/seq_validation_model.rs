//! Two peers that speak with each other by a network that loses packets and lets them overtake each other.

use proptest::prelude::*;

use super::{Acceptance, ROOM, is_over, learn, record_end, validate};
use crate::abi::packet::{Entry, state};
use crate::flow::{End, Reason, Side};
use crate::packet::claim::{is_strange, note_claim};
use crate::packet::header::{Segment, tcp};
use crate::packet::life::{Bounds, Step, bytes, step};
use crate::packet::seq::{before, later, place};
use core::time::Duration;

/// What is added to the numbers of one leg to get those of the other.
const DELTA: u32 = 0x9abc_def0;
const SCALE: u8 = 9;

/// A peer, in the numbers of its own leg.
pub(super) struct Peer {
    start: u32,
    pub(super) next: u32,
    pub(super) unacknowledged: u32,
    /// What the other one allows, as last heard, and the next byte of its stream.
    allowed: u32,
    expected: u32,
    window: u32,
}

impl Peer {
    fn new(start: u32, other: u32, [window, allowed]: [u32; 2]) -> Self {
        let (next, unacknowledged, allowed) = (start, start, start.wrapping_add(allowed));
        Self { start, next, unacknowledged, allowed, expected: other, window }
    }

    pub(super) fn segment(&self, seq: u32, len: u32) -> (Segment, u32) {
        let window = u16::try_from(self.window >> SCALE).unwrap();
        (Segment { seq, end: seq.wrapping_add(len), ack: self.expected, flags: tcp::ACK, window }, len)
    }

    /// New bytes, as many as there is room for; old ones; or only an acknowledgement.
    pub(super) fn say(&mut self, kind: u8, len: u32) -> (Segment, u32) {
        match kind {
            0 | 1 => {
                let len = len.min(self.allowed.wrapping_sub(self.next));
                let segment = self.segment(self.next, len);
                self.next = self.next.wrapping_add(len);
                segment
            }
            2 => self.segment(self.unacknowledged, len.min(self.next.wrapping_sub(self.unacknowledged))),
            _ => self.segment(self.next, 0),
        }
    }

    pub(super) fn finish(&mut self) -> (Segment, u32) {
        let (segment, _) = self.segment(self.next, 0);
        self.next = self.next.wrapping_add(1);
        (Segment { end: self.next, flags: tcp::ACK | tcp::FIN, ..segment }, 0)
    }

    /// Of bytes that it has already it takes not even the acknowledgement (RFC 9293, section 3.10.7.4).
    pub(super) fn hear(&mut self, (segment, _): &(Segment, u32)) {
        if before(segment.end, self.expected) {
            return;
        }
        if !before(self.expected, segment.seq) && before(self.expected, segment.end) {
            self.expected = segment.end;
        }
        if !before(self.next, segment.ack) {
            self.unacknowledged = later(self.unacknowledged, segment.ack);
            let edge = segment.ack.wrapping_add(u32::from(segment.window) << SCALE);
            self.allowed = later(self.allowed, edge);
        }
    }
}

pub(super) type Packet = (Segment, u32);

/// Both of them, and what is known of them.
pub(super) struct World {
    pub(super) peers: [Peer; 2],
    pub(super) entries: [Entry; 2],
    pub(super) now_ms: u32,
}

impl World {
    pub(super) fn new(starts: [u32; 2], windows: [u32; 2]) -> Self {
        let [client, server] = starts;
        let [one, other] = windows;
        // As each end has the other's stream in its own leg.
        let peers = [
            Peer::new(client, server.wrapping_sub(DELTA), [one, other]),
            Peer::new(server, client.wrapping_add(DELTA), [other, one]),
        ];
        let entry = |leg: u8, seq: u32| {
            let peer = &peers[usize::from(leg)];
            let window = u16::try_from(peer.window >> SCALE).unwrap();
            let (start, acked) = (peer.start, peer.expected);
            Entry {
                state: state::FORWARD,
                leg,
                start,
                acked,
                scales: Entry::scales_of(SCALE, 0),
                window,
                seq,
                ..Entry::default()
            }
        };
        let entries = [entry(0, DELTA), entry(1, 0_u32.wrapping_sub(DELTA))];
        Self { peers, entries, now_ms: 0 }
    }

    /// As the programs do it. What becomes of the packet at the other peer.
    pub(super) fn forward(&mut self, side: usize, (segment, payload): &Packet) -> (Acceptance, Packet) {
        let [client, server] = &mut self.entries;
        let (entry, other) = if side == 0 { (client, server) } else { (server, client) };
        let mut trusted = validate(entry, other, segment, *payload);
        if matches!(trusted, Acceptance::Nothing | Acceptance::Old | Acceptance::Less)
            && note_claim(entry, other, segment)
        {
            trusted = Acceptance::All;
        }
        if segment.has(tcp::FIN | tcp::RST) {
            let _ = record_end(entry, other, segment, trusted);
        }
        learn(entry, segment, *payload, trusted, self.now_ms);
        let onward = Segment {
            seq: segment.seq.wrapping_add(entry.seq),
            end: segment.end.wrapping_add(entry.seq),
            ack: segment.ack.wrapping_sub(other.seq),
            ..*segment
        };
        (trusted, (onward, *payload))
    }

    /// A packet that is neither lost nor late.
    pub(super) fn exchange(&mut self, side: usize, packet: &Packet) {
        let (_, packet) = self.forward(side, packet);
        self.peers[1 - side].hear(&packet);
    }

    /// Both answer a probe.
    pub(super) fn answer(&mut self) {
        for side in [0, 1] {
            let said = self.peers[side].say(3, 0);
            self.exchange(side, &said);
        }
    }

    /// What was lost comes again, and is acknowledged.
    fn settle(&mut self) {
        for _ in 0..4 {
            for side in [0, 1] {
                let again = self.peers[side].say(2, u32::MAX);
                self.exchange(side, &again);
            }
        }
        for _ in 0..3 {
            self.answer();
        }
    }

    /// Whether what is known is what is true, of peers that have nothing on its way.
    pub(super) fn check(&self) {
        for side in [0, 1] {
            let (entry, peer) = (&self.entries[side], &self.peers[side]);
            assert_eq!(entry.acked, peer.expected, "{:?}", self.entries);
            let true_place = place(entry.sent, entry.start, peer.next);
            // Of packets without bytes the one before their number is not taken for sent.
            assert!(
                [true_place, true_place.saturating_sub(1)].contains(&entry.sent),
                "{true_place}: {:?}",
                self.entries
            );
            assert!(!is_strange(entry));
            assert_eq!(bytes(entry, &self.entries[1 - side]), true_place);
        }
    }

    pub(super) fn look(&mut self, bounds: &Bounds, moved_ms: u32) -> Step {
        step(self.entries.each_ref().map(Some), moved_ms, self.now_ms, bounds)
    }

    /// It ends in order, and the record is right.
    pub(super) fn end(mut self) {
        let sent = self.peers.each_ref().map(|peer| peer.next.wrapping_sub(peer.start));
        for side in [0, 1] {
            let fin = self.peers[side].finish();
            self.exchange(side, &fin);
            let knows = self.peers[1 - side].say(3, 0);
            self.exchange(1 - side, &knows);
        }
        assert!(is_over(&self.entries[0], &self.entries[1]), "{:?}", self.entries);
        let [client, server] = &self.entries;
        let known = [bytes(client, server), bytes(server, client)];
        assert_eq!(known.map(|bytes| u32::try_from(bytes).unwrap()), sent);
        let bounds = Bounds {
            half_close: Duration::from_secs(1),
            idle: Duration::ZERO,
            keepalive: Duration::from_secs(65),
        };
        let over = Step::Over(End { reason: Reason::Eof, side: Some(Side::Client) });
        assert_eq!(self.look(&bounds, self.now_ms), over);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However packets are lost and late: nothing is known that is not true, peers are never taken for strangers, and as soon as nothing is
    /// on its way all that is true is known.
    #[test]
    fn peers_that_speak_with_each_other_are_no_strangers(
        starts: [u32; 2],
        windows in [0..ROOM / 4, 0..ROOM / 4],
        steps in prop::collection::vec((0..6_u8, 0..2_usize, 0..4_u8, 0..200_000_u32, any::<prop::sample::Index>()), 1..400),
    ) {
        let mut world = World::new(starts, windows);
        // On their way to us, and from us.
        let mut here: [Vec<Packet>; 2] = Default::default();
        let mut there: [Vec<Packet>; 2] = Default::default();
        for (what, side, kind, len, index) in steps {
            match what {
                0 | 1 => here[side].push(world.peers[side].say(kind, len)),
                2 if !here[side].is_empty() => { let _ = here[side].swap_remove(index.index(here[side].len())); }
                3 | 4 if !here[side].is_empty() => {
                    let packet = here[side].swap_remove(index.index(here[side].len()));
                    let (trusted, onward) = world.forward(side, &packet);
                    prop_assert_ne!(trusted, Acceptance::Nothing, "{:?} of {:?}", packet, world.entries);
                    there[1 - side].push(onward);
                }
                5 if !there[side].is_empty() => {
                    let packet = there[side].swap_remove(index.index(there[side].len()));
                    world.peers[side].hear(&packet);
                }
                _ => {}
            }
            for (entry, peer) in world.entries.iter().zip(&world.peers) {
                prop_assert!(!before(peer.expected, entry.acked), "acknowledged by nobody");
                prop_assert!(!before(peer.next, entry.start.wrapping_add(u32::try_from(entry.sent).unwrap())));
            }
        }
        world.settle();
        world.check();
        world.end();
    }
}
