use super::*;
use crate::abi::packet::flag;
use crate::packet::header::{Header, Shift, hear, note, tcp};
use crate::packet::seq::before;
use proptest::prelude::*;

/// Two ends and the entries between them: `play` sends, loses and acknowledges as the steps say.
struct World {
    /// First sequence number of each end, as it knows it.
    first: [u32; 2],
    /// Bytes that each end has sent, and got in order.
    sent: [u64; 2],
    got: [u64; 2],
    /// Bytes that each end knows to have arrived.
    knows: [u64; 2],
    entries: [Entry; 2],
    held: bool,
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

impl World {
    fn new(first: [u32; 2], delta: [u32; 2], before: [u64; 2]) -> Self {
        let at = |leg: usize| first[leg].wrapping_add(low(before[leg]));
        let entry = |leg: usize| Entry {
            state: state::FORWARD,
            seq: delta[leg],
            ack: 0_u32.wrapping_sub(delta[leg ^ 1]),
            start: first[leg],
            sent: before[leg],
            acked: at(leg ^ 1).wrapping_add(delta[leg ^ 1]),
            scales: Entry::scales_of(2, 7),
            window: 500,
            ..Entry::default()
        };
        Self {
            first,
            sent: before,
            got: [before[1], before[0]],
            knows: before,
            entries: [entry(0), entry(1)],
            held: false,
        }
    }

    /// An end sends from `from` on `bytes` bytes, and says what it has got. Says what the other end is given.
    fn send(&mut self, leg: usize, from: u64, bytes: u64, arrives: bool) {
        let other = leg ^ 1;
        self.sent[leg] = self.sent[leg].max(from + bytes);
        let mut header = Header {
            seq: self.first[leg].wrapping_add(low(from)).to_be(),
            // As this end knows the other's numbers: those of the leg that it is on.
            ack: self.first[other]
                .wrapping_add(low(self.got[leg]))
                .wrapping_add(self.entries[other].seq)
                .to_be(),
            flags: tcp::ACK,
            window: 500_u16.to_be(),
            ..Header::default()
        };
        let payload = low(bytes);
        let segment = header.segment(payload);
        if self.held && brings_more(&self.entries[leg], &segment, payload) {
            hear(&mut self.entries[leg], &segment, 0);
            return;
        }
        note(&mut self.entries[leg], &segment, payload, 0);
        if !arrives {
            return;
        }
        Shift::of(&self.entries[leg]).translate(&mut header, [0, 0]);
        // In the numbers of the leg that it goes out by: back to places.
        let out = u32::from_be(header.seq).wrapping_sub(self.entries[leg].seq);
        assert_eq!(out, self.first[leg].wrapping_add(low(from)));
        if from <= self.got[other] {
            self.got[other] = self.got[other].max(from + bytes);
        }
        self.knows[other] = self.knows[other].max(self.got[leg]);
    }
}

/// Steps: which end; how far back it goes, in parts of what is not known to have arrived; bytes; whether it arrives.
type Step = (usize, u8, u16, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..2_usize, 0..4_u8, 0..3000_u16, any::<bool>()), 0..60)
}

proptest! {
    /// Whatever was sent, lost, repeated and acknowledged before and while packets are held: the new sockets go on at places
    /// from which every byte is delivered once.
    #[test]
    fn new_sockets_begin_where_no_byte_is_lost_or_doubled(
        first: [u32; 2], delta: [u32; 2], gone_by in [0..1_u64 << 34, 0..1_u64 << 34],
        forwarded in steps(), held in steps(),
    ) {
        let mut world = World::new(first, delta, gone_by);
        for (number, (leg, back, bytes, arrives)) in forwarded.iter().chain(&held).enumerate() {
            world.held = number >= forwarded.len();
            let unknown = world.sent[*leg] - world.knows[*leg];
            let from = world.sent[*leg] - unknown * u64::from(*back) / 3;
            world.send(*leg, from, u64::from(*bytes), *arrives);
        }
        let [client, server] = &world.entries;
        let starts = start([client, server], false, 0).unwrap();
        for leg in 0..2 {
            let other = leg ^ 1;
            let begun = starts.legs[leg];
            let delivered = starts.delivered[leg];
            // This end's stream: it still has all that the socket has not received, and nothing of it was missed by the other.
            prop_assert!(delivered >= world.knows[leg] && delivered <= world.got[other]);
            prop_assert_eq!(begun.receive, world.first[leg].wrapping_add(low(delivered)));
            // And the socket of the other end goes on at the same place, in the numbers of its leg.
            let place_ = starts.legs[other].send.wrapping_sub(world.entries[leg].seq);
            prop_assert_eq!(place_, begun.receive);
            // What is under way fits into its window, so that it can catch up.
            let ahead = world.got[other] - delivered;
            prop_assert!(u64::from(starts.legs[other].window) >= ahead);
            prop_assert!(!before(world.first[leg].wrapping_add(low(world.got[other])), begun.receive));
        }
    }
}

fn entries() -> [Entry; 2] {
    World::new([1000, 70_000], [5, 9], [100, 200]).entries
}

fn begin([client, server]: &[Entry; 2], stamps: bool) -> Result<Starts, Hindrance> {
    start([client, server], stamps, 50)
}

#[test]
fn a_flow_at_rest_goes_on_where_it_is() {
    let starts = begin(&entries(), false).unwrap();
    let [client, server] = starts.legs;
    assert_eq!((client.receive, client.send), (1100, 70_209));
    assert_eq!((server.receive, server.send), (70_200, 1105));
    assert_eq!((client.window, client.peer_scale, client.own_scale, client.stamp), (2000, 2, 7, None));
    assert_eq!(starts.delivered, [100, 200]);
}

#[test]
fn what_is_not_acknowledged_is_under_way() {
    let mut flow = entries();
    let of = |[client, server]: &[Entry; 2]| under_way([client, server]);
    assert_eq!(of(&flow), Some([0, 0]));
    flow[0].sent += 50;
    assert_eq!(of(&flow), Some([0, 50]), "to the server");
    flow[1].acked = flow[1].acked.wrapping_add(51);
    assert_eq!(of(&flow), Some([0, 0]), "the last byte was not taken for one");
    flow[1].acked = flow[1].acked.wrapping_add(1);
    assert_eq!(of(&flow), None);
    assert!(can_catch_up(5360, 536) && !can_catch_up(5361, 536));
}

#[test]
fn time_stamps_are_later_than_any_that_was_forwarded() {
    let mut flow = entries();
    (flow[1].stamped, flow[1].stamp, flow[1].active_ms) = (u32::MAX, 11, 20);
    let [client, server] = begin(&flow, true).unwrap().legs;
    assert_eq!(client.stamp, Some(10 + 30 + AHEAD_MS));
    assert_eq!(server.stamp, Some(50 + AHEAD_MS));
    flow[1].active_ms = 60;
    assert_eq!(begin(&flow, true).unwrap().legs[0].stamp, Some(10 + AHEAD_MS), "a packet after the clock");
}

#[test]
fn what_has_ended_or_does_not_fit_together_gets_no_sockets() {
    for flags in [flag::FIN, flag::RST, flag::FIN | flag::FIRST] {
        let mut flow = entries();
        flow[1] = Entry { fin: 70_200, ..flow[1].with(flags) };
        assert_eq!(begin(&flow, false), Err(Hindrance::Ended));
    }
    let mut flow = entries();
    (flow[1].ended, flow[1].fin) = (flag::FIN, 70_198);
    assert!(begin(&flow, false).is_ok(), "the stream has gone on behind that");
    let mut flow = entries();
    flow[1].acked = flow[1].acked.wrapping_add(2);
    assert_eq!(begin(&flow, false), Err(Hindrance::Unknown), "more than was sent");
    let mut flow = entries();
    flow[0].sent += (1 << 30) + 1;
    assert_eq!(begin(&flow, false), Err(Hindrance::Unknown), "more on its way than any window");
    assert_ne!(Hindrance::Ended.text(), Hindrance::Unknown.text());
}

#[test]
fn orders_need_their_state() {
    use Command::{End, Flip, Free, Hold, Resume};
    let both = |state: u8| [state, state];
    assert_eq!(change(Hold, both(state::FORWARD), 0), Ok(state::HELD));
    assert_eq!(change(Resume, both(state::HELD), 9 * HELD_MS), Ok(state::FORWARD));
    assert_eq!(change(Free, both(state::HELD), FREE_MS - 1), Ok(state::DEAD));
    for state in [state::FORWARD, state::HELD, state::DEAD, state::ENDED] {
        assert_eq!(change(End, both(state), 0), Ok(state::ENDED));
    }
    let refused = [
        (Hold, both(state::HELD)),
        (Hold, [state::FORWARD, state::DEAD]),
        (Resume, both(state::FORWARD)),
        (Free, [state::HELD, state::FORWARD]),
        (End, [state::FORWARD, state::ARMED]),
        (Flip, both(state::FORWARD)),
    ];
    for (command, states) in refused {
        assert_eq!(change(command, states, 0), Err(Answer::OtherState), "{command:?} {states:?}");
    }
    assert_eq!(change(Free, both(state::HELD), FREE_MS), Err(Answer::OtherState), "too late");
}

#[test]
fn packets_are_held_for_a_while_only() {
    let entry = Entry { handover: u32::MAX, ..Entry::default() };
    assert!(is_held(&entry, u32::MAX) && is_held(&entry, HELD_MS - 2));
    assert!(!is_held(&entry, HELD_MS - 1));
}

#[test]
fn what_is_known_is_confirmed_by_what_comes_while_packets_are_held() {
    let mut flow = entries().map(|entry| Entry { state: state::HELD, handover: 7, active_ms: 6, ..entry });
    let confirmed = |flow: &[Entry; 2]| have_confirmed(flow.each_ref());
    assert!(!confirmed(&flow));
    flow[0].active_ms = 7;
    assert!(!confirmed(&flow));
    flow[1].active_ms = 9;
    assert!(confirmed(&flow));
    flow[1].state = state::FORWARD;
    assert!(!confirmed(&flow));
}

#[test]
fn packets_are_held_if_both_entries_say_so_since_the_same_moment() {
    let held = Entry { state: state::HELD, handover: 1000, ..Entry::default() };
    assert!(are_held([&held, &held], 1000 + HELD_MS - 1));
    assert!(!are_held([&held, &held], 1000 + HELD_MS), "for too long");
    for strange in [
        // A program that had seen it forwarding has written its note there.
        Entry { handover: 0, ..held },
        Entry { handover: 0x5b_1c71, ..held },
        // A client has begun another connection.
        Entry { state: state::DEAD, ..held },
        Entry { state: state::FORWARD, ..held },
    ] {
        assert!(!are_held([&held, &strange], 1001) && !are_held([&strange, &held], 1001), "{strange:?}");
        assert!(!are_held([&strange, &strange], 1_000_000), "{strange:?}");
    }
}
