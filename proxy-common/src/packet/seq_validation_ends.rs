//! Whole connections by bad networks: whatever is lost and late, both ends are noted as soon as both peers know of them.

use super::is_over;
use super::model::{Packet, Peer, World};
use crate::packet::header::tcp;

/// Bytes of a full segment.
const SEGMENT: u32 = 1448;

/// Bytes that a peer has on its way at most.
const FLIGHT: u32 = 60_000;

/// Steps after which a peer sends again what is not acknowledged.
const AGAIN: u32 = 40;

/// Nothing takes so many steps.
const FOREVER: u32 = 1_000_000;

/// Numbers that look random, the same ones for each seed (xorshift, after George Marsaglia).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 20) % u64::from(bound)).unwrap()
    }

    fn one_of<const N: usize>(&mut self, of: [u32; N]) -> u32 {
        of[self.below(u32::try_from(N).unwrap()) as usize]
    }
}

/// What a peer has still to do.
#[derive(Default)]
struct Plan {
    bytes: u32,
    has_finished: bool,
    /// It has got something that it has not acknowledged.
    owes: bool,
    again_at: u32,
}

impl Plan {
    /// What it sends in this step, if anything.
    fn say(&mut self, peer: &mut Peer, now: u32, dice: &mut Dice) -> Option<Packet> {
        let unheard = peer.next.wrapping_sub(peer.unacknowledged);
        let packet = if unheard < FLIGHT && self.bytes > 0 && dice.below(3) == 0 {
            self.say_more(peer, dice)?
        } else if self.bytes == 0 && !self.has_finished && dice.below(20) == 0 {
            self.has_finished = true;
            peer.finish()
        } else if unheard > 0 && (now >= self.again_at || dice.below(60) == 0) {
            self.say_again(peer, unheard, dice)
        } else if self.owes && dice.below(2) == 0 {
            peer.say(3, 0)
        } else {
            return None;
        };
        self.owes = false;
        if packet.0.end != packet.0.seq {
            self.again_at = now + AGAIN;
        }
        Some(packet)
    }

    fn say_more(&mut self, peer: &mut Peer, dice: &mut Dice) -> Option<Packet> {
        let (mut segment, len) = peer.say(0, self.bytes.min(SEGMENT * (1 + dice.below(4))));
        if len == 0 {
            return None;
        }
        self.bytes -= len;
        if self.bytes == 0 && dice.below(2) == 0 {
            self.has_finished = true;
            let _ = peer.finish();
            (segment.end, segment.flags) = (peer.next, tcp::ACK | tcp::FIN);
        }
        Some((segment, len))
    }

    /// From the first byte on that is not acknowledged.
    fn say_again(&self, peer: &Peer, unheard: u32, dice: &mut Dice) -> Packet {
        let len = unheard.min(SEGMENT * (1 + dice.below(3)));
        let (mut segment, mut payload) = peer.segment(peer.unacknowledged, len);
        if self.has_finished && len == unheard {
            payload -= 1;
            segment.flags |= tcp::FIN;
        }
        (segment, payload)
    }
}

/// Packets on their way to us, or from us to the other peer.
struct Network {
    /// When they come, whether they have passed us, who sent them.
    flying: Vec<(u32, bool, usize, Packet)>,
    /// Of a hundred.
    lost: u32,
    /// Steps that one takes more than another.
    late: u32,
}

impl Network {
    fn carry(&mut self, now: u32, has_passed: bool, side: usize, packet: Packet, dice: &mut Dice) {
        if dice.below(100) >= self.lost {
            self.flying.push((now + 1 + dice.below(self.late), has_passed, side, packet));
        }
    }

    fn arrive(&mut self, now: u32, world: &mut World, plans: &mut [Plan; 2], dice: &mut Dice) {
        let (due, flying) = self.flying.drain(..).partition(|(when, ..)| *when <= now);
        let due: Vec<_> = due;
        self.flying = flying;
        for (_, has_passed, side, packet) in due {
            if has_passed {
                world.peers[1 - side].hear(&packet);
                plans[1 - side].owes |= packet.0.end != packet.0.seq;
            } else {
                let (_, onward) = world.forward(side, &packet);
                self.carry(now, true, side, onward, dice);
            }
        }
    }
}

/// Until both peers know that the other one has got all, its end included.
fn play(seed: u64) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let starts = [(); 2].map(|()| dice.below(u32::MAX));
    let mut world = World::new(starts, [(); 2].map(|()| dice.one_of([1 << 14, 1 << 16, 1 << 18])));
    let bytes = [(); 2].map(|()| dice.one_of([0, 1, SEGMENT, 10 * SEGMENT, 100_000, 400_000]));
    let mut plans = bytes.map(|bytes| Plan { bytes, ..Plan::default() });
    let mut network =
        Network { flying: Vec::new(), lost: dice.one_of([0, 5, 20, 50]), late: dice.one_of([1, 3, 30]) };
    for now in 0..FOREVER {
        for side in [0, 1] {
            if let Some(packet) = plans[side].say(&mut world.peers[side], now, &mut dice) {
                network.carry(now, false, side, packet, &mut dice);
            }
        }
        network.arrive(now, &mut world, &mut plans, &mut dice);
        let knows_all = |(peer, plan): (&Peer, &Plan)| plan.has_finished && peer.next == peer.unacknowledged;
        if world.peers.iter().zip(&plans).all(knows_all) {
            return world;
        }
    }
    panic!("seed {seed}: the peers come to no end");
}

#[test]
fn ends_are_noted_when_both_peers_know_of_them() {
    for seed in 1..=10_000 {
        let world = play(seed);
        let [client, server] = &world.entries;
        assert!(is_over(client, server), "seed {seed}: {:?}", world.entries);
    }
}
