//! A host that sends in the name of both peers and sees nothing of what they say: it may cost packets, never the connection, never a wrong
//! record.

use super::model::World;
use super::{Acceptance, expected, learn, validate};
use crate::abi::packet::Entry;
use crate::packet::claim::is_strange;
use crate::packet::header::{Segment, tcp};
use crate::packet::life::{Bounds, Step, bytes};
use core::time::Duration;

/// Numbers without a pattern.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        u32::try_from(self.0 >> 32).unwrap()
    }

    /// Of the numbers from 2^(bits-1) to 2^bits, or those as far below 0.
    fn near(&mut self, bits: u32) -> u32 {
        let number = if bits == 0 { 0 } else { (self.roll() | 1 << 31) >> (32 - bits) };
        if self.roll() & 1 == 0 { number } else { 0_u32.wrapping_sub(number) }
    }
}

/// How many of the 2^64 pairs of numbers make a packet of which `is_learnt`, as an estimate: pairs that are as far from what is known are
/// tried together.
fn count(world: &World, payload: u32, is_learnt: impl Fn(&Entry, &Entry, Acceptance) -> bool) -> f64 {
    const TRIES: u32 = 400;
    let ([entry, other], mut dice) = (world.entries, Dice(7));
    let size = |bits: u32| 2_f64.powi(i32::try_from(bits).unwrap());
    let mut sum = 0.0;
    for seq_bits in 0..=32 {
        for ack_bits in 0..=32 {
            let mut hits = 0;
            for _ in 0..TRIES {
                let seq = expected(&entry, &other).wrapping_add(dice.near(seq_bits));
                let ack = entry.acked.wrapping_add(dice.near(ack_bits));
                let end = seq.wrapping_add(payload);
                let segment = Segment { seq, end, ack, flags: tcp::ACK, window: 9 };
                let (mut now, trusted) = (entry, validate(&entry, &other, &segment, payload));
                learn(&mut now, &segment, payload, trusted, 1);
                hits += u32::from(is_learnt(&entry, &now, trusted));
            }
            sum += f64::from(hits) / f64::from(TRIES) * size(seq_bits) * size(ack_bits);
        }
    }
    sum
}

/// 10^6 packets in a second for a minute.
const PACKETS: f64 = 6e7;
/// How likely one of them is believed at most.
const ALL: f64 = 18_446_744_073_709_551_616.0;

fn moves_acked(was: &Entry, now: &Entry, _: Acceptance) -> bool {
    was.acked != now.acked
}

fn moves_sent(was: &Entry, now: &Entry, _: Acceptance) -> bool {
    was.sent != now.sent
}

fn world() -> World {
    let mut world = World::new([3_000_000_000, 77], [1 << 22; 2]);
    let hello = world.peers[0].say(0, 1000);
    world.exchange(0, &hello);
    world.answer();
    world
}

#[test]
fn a_minute_of_guesses_learns_nothing_at_rest() {
    let world = world();
    for payload in [0, 1, 1400, 65_000] {
        let acked = count(&world, payload, moves_acked) / ALL * PACKETS;
        assert!(acked < 1e-5, "{payload}: {acked}");
        let sent = count(&world, payload, moves_sent) / ALL * PACKETS;
        assert!(sent < 1e-3, "{payload}: {sent}");
        // An end is believed, until the other peer says otherwise, of the same packets.
        let ends = count(&world, payload, |_, _, acceptance| {
            matches!(acceptance, Acceptance::All | Acceptance::Sent)
        });
        assert!(ends / ALL * PACKETS < 1e-3, "{payload}: {ends}");
    }
}

#[test]
fn nor_of_the_side_that_only_listens_while_the_other_one_sends() {
    let mut world = world();
    let sent = world.peers[0].say(0, 1 << 22);
    let _ = world.forward(0, &sent);
    world.entries.reverse();
    let acked = count(&world, 0, moves_acked) / ALL * PACKETS;
    assert!(acked < 1e-2, "{acked}");
    world.entries.reverse();
    let acked = count(&world, 1400, moves_acked) / ALL * PACKETS;
    assert!(acked < 1e-2, "{acked}");
}

/// All of 65 to 65,537 steps for each number, with every flag, from both sides, in every order: what the flood of a few seconds can try.
#[test]
fn sweeps_of_all_numbers_leave_a_connection_as_it_is() {
    for (seq_bits, ack_bits) in [(26, 26), (16, 28), (28, 16), (20, 22)] {
        for flags in
            [tcp::FIN | tcp::ACK, tcp::ACK, tcp::PSH | tcp::ACK, tcp::SYN, tcp::RST, tcp::RST | tcp::ACK]
        {
            let mut world = world();
            let was = world.entries;
            for seq in 0..1_u32 << (32 - seq_bits) {
                for ack in 0..1_u32 << (32 - ack_bits) {
                    let (seq, ack) = ((seq << seq_bits) + 5, (ack << ack_bits) + 9);
                    let end = seq.wrapping_add(1400 + u32::from(flags & tcp::FIN));
                    let segment = Segment { seq, end, ack, flags, window: 0 };
                    for side in [0, 1] {
                        let _ = world.forward(side, &(segment, 1400));
                    }
                }
            }
            for (now, was) in world.entries.iter().zip(&was) {
                let kept = Entry { handover: 0, doubt: 0, ..*now };
                // That somebody says so is no end.
                let kept = if kept.has_ended() { kept } else { Entry { ended: 0, fin: was.fin, ..kept } };
                assert_eq!(kept, *was, "{seq_bits} {ack_bits} {flags}");
            }
            world.answer();
            world.check();
            world.end();
        }
    }
}

/// A stranger whose luck is beyond all measure: of his packets so many are near enough that he leads both streams away as far as each one
/// lets him. As soon as he pauses, what the peers say of each other is true again.
fn lead_away(world: &mut World, steps: u32, dice: &mut Dice) {
    for number in 0..steps {
        let side = usize::from(number % 2 != 0);
        let (entry, other) = (world.entries[side], world.entries[1 - side]);
        let (first, sent) =
            (expected(&entry, &other), entry.start.wrapping_add(u32::try_from(entry.sent).unwrap()));
        let high = other.start.wrapping_add(u32::try_from(other.sent).unwrap()).wrapping_add(other.seq);
        let (seq, payload) =
            [(sent, 65_000), (sent.wrapping_add(100_000), 1400), (first, 0)][dice.roll() as usize % 3];
        let ack = [high, high.wrapping_add(100_000), entry.acked][dice.roll() as usize % 3];
        let fin = u32::from(dice.roll().is_multiple_of(64));
        let flags = tcp::ACK | if fin == 0 { 0 } else { tcp::FIN };
        let end = seq.wrapping_add(payload).wrapping_add(fin);
        let _ = world.forward(side, &(Segment { seq, end, ack, flags, window: 0 }, payload));
    }
}

#[test]
fn one_who_has_led_it_away_ends_nothing_and_it_comes_back() {
    let bounds = Bounds {
        half_close: Duration::from_secs(5),
        idle: Duration::from_secs(20),
        keepalive: Duration::from_secs(10),
    };
    for seed in 0..200 {
        let (mut world, mut dice) = (world(), Dice(seed));
        let (mut moved_ms, mut strange) = (0, 0);
        lead_away(&mut world, 1 + dice.roll() % 2000, &mut dice);
        for _ in 0..100 {
            // The flood goes on, and what the peers say comes in between.
            world.now_ms += 300;
            for _ in 0..20 {
                let (seq, ack) = (dice.roll(), dice.roll());
                let flags = [tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::SYN][dice.roll() as usize % 4];
                let segment = Segment { seq, end: seq.wrapping_add(700), ack, flags, window: 0 };
                let side = usize::from(dice.roll() & 1 == 0);
                let _ = world.forward(side, &(segment, 700));
            }
            let said = world.peers[0].say(0, 100);
            world.exchange(0, &said);
            let said = world.peers[1].say(0, 200);
            world.exchange(1, &said);
            let [client, server] = &world.entries;
            strange += u32::from(is_strange(client) || is_strange(server));
            if bytes(client, server) != 0 && !is_strange(client) && !is_strange(server) {
                moved_ms = world.now_ms;
            }
            let step = world.look(&bounds, moved_ms);
            assert!(matches!(step, Step::Wait(_) | Step::Probe(..) | Step::Search(..)), "{seed}: {step:?}");
        }
        assert!(strange > 0, "it was not led away");
        for _ in 0..4 {
            world.answer();
        }
        world.check();
        world.end();
    }
}
