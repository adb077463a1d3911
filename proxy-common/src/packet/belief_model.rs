//! Two ends that speak with each other by a network that loses packets and lets them overtake each other: nothing that they
//! say is taken for a stranger's.

use proptest::prelude::*;

use super::{ROOM, Trust, trust};
use crate::abi::packet::Entry;
use crate::packet::header::{Segment, hear, note, tcp};
use crate::packet::seq::{before, later};

/// What is added to the numbers of one leg to get those of the other.
const DELTA: u32 = 0x9abc_def0;
const SCALE: u8 = 9;

/// An end, in the numbers of its own leg.
struct End {
    start: u32,
    next: u32,
    unacknowledged: u32,
    /// What the peer allows, as last heard, and the next byte of its stream.
    allowed: u32,
    expected: u32,
    window: u32,
}

impl End {
    fn new(start: u32, peer: u32, window: u32) -> Self {
        Self {
            start,
            next: start,
            unacknowledged: start,
            allowed: start.wrapping_add(window),
            expected: peer,
            window,
        }
    }

    fn segment(&self, seq: u32, len: u32) -> (Segment, u32) {
        let window = u16::try_from(self.window >> SCALE).unwrap();
        (Segment { seq, end: seq.wrapping_add(len), ack: self.expected, flags: tcp::ACK, window }, len)
    }

    /// New bytes, as many as there is room for; old ones; or only an acknowledgement.
    fn say(&mut self, kind: u8, len: u32) -> (Segment, u32) {
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

    fn hear(&mut self, (segment, _): &(Segment, u32)) {
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

fn entry(end: &End, seq: u32) -> Entry {
    let window = u16::try_from(end.window >> SCALE).unwrap();
    Entry { start: end.start, acked: end.expected, scale_in: SCALE, window, seq, ..Entry::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn ends_that_speak_with_each_other_are_no_strangers(
        starts: [u32; 2],
        windows in [0..ROOM / 4, 0..ROOM / 4],
        steps in prop::collection::vec((0..6_u8, 0..2_usize, 0..4_u8, 0..200_000_u32, any::<prop::sample::Index>()), 1..400),
    ) {
        let [client_start, server_start] = starts;
        // As each end has the other's stream in its own leg.
        let mut ends = [
            End::new(client_start, server_start.wrapping_sub(DELTA), windows[0]),
            End::new(server_start, client_start.wrapping_add(DELTA), windows[1]),
        ];
        let (allowed, back) = (windows[1], windows[0]);
        ends[0].allowed = client_start.wrapping_add(allowed);
        ends[1].allowed = server_start.wrapping_add(back);
        let mut entries = [entry(&ends[0], DELTA), entry(&ends[1], 0_u32.wrapping_sub(DELTA))];
        // On their way to us, and from us.
        let mut here: [Vec<(Segment, u32)>; 2] = Default::default();
        let mut there: [Vec<(Segment, u32)>; 2] = Default::default();
        for (what, side, kind, len, index) in steps {
            match what {
                0 | 1 => here[side].push(ends[side].say(kind, len)),
                2 if !here[side].is_empty() => { let _ = here[side].swap_remove(index.index(here[side].len())); }
                3 | 4 if !here[side].is_empty() => {
                    let (segment, payload) = here[side].swap_remove(index.index(here[side].len()));
                    let trusted = trust(&entries[side], &entries[1 - side], &segment, payload);
                    prop_assert_ne!(trusted, Trust::Nothing, "{:?} of {:?}", segment, entries);
                    match trusted {
                        Trust::All => note(&mut entries[side], &segment, payload, 1),
                        _ => hear(&mut entries[side], &segment, 1),
                    }
                    let delta = entries[side].seq;
                    let other = entries[1 - side].seq;
                    let onward = Segment {
                        seq: segment.seq.wrapping_add(delta),
                        end: segment.end.wrapping_add(delta),
                        ack: segment.ack.wrapping_sub(other),
                        ..segment
                    };
                    there[1 - side].push((onward, payload));
                }
                5 if !there[side].is_empty() => {
                    let packet = there[side].swap_remove(index.index(there[side].len()));
                    ends[side].hear(&packet);
                }
                _ => {}
            }
        }
    }
}
