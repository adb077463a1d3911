//! Draws scripts.
//!
//! No script waits for ever: of two sides at most one waits for the other, except in an exchange, where each waits for
//! bytes that the other has been told to write before.

#![expect(clippy::indexing_slicing, reason = "both sides in an array, indexed by 0 and 1")]

use std::time::Duration;

use super::{Ends, In, Out, Part, Script, Side};
use crate::random::Random;

/// The least receive buffer that Linux grants: half of 2304 bytes, since it doubles what it is asked for.
const LEAST_BUFFER: usize = 1152;

const SHORT: Duration = Duration::from_millis(3);
const LONG: Duration = Duration::from_millis(60);
/// How long a reader stalls at most.
const STALL: Duration = Duration::from_millis(300);

/// The script of one flow of a seed. `hello`: length of the hello that begins the client's stream; 0 for none.
pub fn generate(seed: u64, flow: u64, hello: u64) -> Script {
    let mut dice = Random::of(seed, flow);
    match dice.below(10) {
        0..=5 => free(&mut dice, hello),
        6 => exchange(&mut dice, hello),
        _ => cut(&mut dice, hello),
    }
}

/// Both sides write what they have, each at its own pace, and finish.
fn free(dice: &mut Random, hello: u64) -> Script {
    let mut script = blank(dice);
    let leader = either(dice);
    let volumes = [volume(dice, &script.server), volume(dice, &script.client)];
    let mut outs = [writes(dice, hello, volumes[0]), writes(dice, 0, volumes[1])];
    let (other, follower) = if leader == Side::Client { (hello + volumes[0], 1) } else { (volumes[1], 0) };
    let mut first = None;
    let awaits = match dice.below(4) {
        0 => {
            first = Some(leader);
            Some(Out::AwaitEnd)
        }
        1 => Some(Out::AwaitBytes(dice.below(other + 1))),
        _ => None,
    };
    if let Some(awaits) = awaits {
        let out = &mut outs[follower];
        // A server is there only once the hello is.
        let least = if follower == 0 { steps_of(out, hello) } else { 0 };
        let place = dice.within(least as u64, out.len() as u64);
        out.insert(usize::try_from(place).unwrap_or(least), awaits);
    }
    for out in &mut outs {
        out.push(Out::Finish);
    }
    [script.client.out, script.server.out] = outs;
    script.client.into = reads(dice, volumes[1]);
    script.server.into = reads(dice, hello + volumes[0]);
    script.ends = Ends::InOrder { first };
    script
}

/// One side asks, the other answers, many times.
fn exchange(dice: &mut Random, hello: u64) -> Script {
    let mut script = blank(dice);
    let mut sent = [0, 0];
    let mut outs = [Vec::new(), Vec::new()];
    if hello > 0 {
        outs[0] = writes(dice, hello, 0);
        sent[0] = hello;
    }
    let asks = usize::from(dice.one_in(2));
    for _ in 0..dice.within(1, 20) {
        for side in [asks, 1 - asks] {
            let largest = if dice.one_in(8) { 30_000 } else { 3000 };
            let bytes = dice.within(1, largest.min(most_for(&script, side)));
            if sent[1 - side] > 0 {
                outs[side].push(Out::AwaitBytes(sent[1 - side]));
            }
            outs[side].push(Out::Write(size(bytes)));
            sent[side] += bytes;
        }
    }
    outs[asks].extend([Out::AwaitBytes(sent[1 - asks]), Out::Finish]);
    outs[1 - asks].extend([Out::AwaitEnd, Out::Finish]);
    [script.client.out, script.server.out] = outs;
    script.ends = Ends::InOrder { first: Some(if asks == 0 { Side::Client } else { Side::Server }) };
    script
}

/// One side ends the connection by force, at any byte.
fn cut(dice: &mut Random, hello: u64) -> Script {
    let mut script = blank(dice);
    let by = either(dice);
    let volumes = [volume(dice, &script.server), volume(dice, &script.client)];
    let mut outs = [writes(dice, hello, volumes[0]), writes(dice, 0, volumes[1])];
    let mut intos = [reads(dice, volumes[1]), reads(dice, hello + volumes[0])];
    let (cutter, victim) = if by == Side::Client { (0, 1) } else { (1, 0) };
    outs[victim].push(Out::Finish);
    let totals = [hello + volumes[0], volumes[1]];
    // Most cuts come when there is a flow.
    let least = if cutter == 0 && !dice.one_in(6) { hello } else { 0 };
    let written = dice.within(least, totals[cutter]);
    truncate(&mut outs[cutter], written);
    let established = cutter == 1 || written >= hello;
    if established && totals[victim] > 0 && dice.one_in(3) {
        let read = dice.below(totals[victim]);
        intos[cutter] = vec![In::Read { bytes: read, chunk: 64 * 1024 }, In::Stop];
        // A full receive buffer that is too small for its last segment closes the window at once, and Linux (6.18) then drops
        // what its peer has sent already together with the acknowledgements in it ("beyond the window"): who never reads again
        // could not write again either, whoever is in between.
        let part = if cutter == 0 { &mut script.client } else { &mut script.server };
        part.receive_buffer = None;
        outs[cutter].extend([Out::AwaitUnread, Out::Close]);
    } else {
        if dice.one_in(5) {
            outs[cutter].push(Out::Finish);
        }
        if established {
            outs[cutter].push(Out::AwaitBytes(dice.below(totals[victim] + 1)));
        }
        if dice.one_in(3) {
            outs[cutter].push(Out::Pause(dice.time(LONG)));
        }
        outs[cutter].push(Out::Reset);
    }
    [script.client.out, script.server.out] = outs;
    [script.client.into, script.server.into] = intos;
    script.ends = Ends::Cut { by };
    script
}

/// A script with the sockets' options alone.
fn blank(dice: &mut Random) -> Script {
    let part = |dice: &mut Random| Part {
        nodelay: !dice.one_in(3),
        receive_buffer: buffer(dice),
        ..Part::default()
    };
    Script { client: part(dice), server: part(dice), ends: Ends::InOrder { first: None } }
}

fn either(dice: &mut Random) -> Side {
    if dice.one_in(2) { Side::Client } else { Side::Server }
}

fn buffer(dice: &mut Random) -> Option<usize> {
    match dice.below(20) {
        0 => Some(LEAST_BUFFER),
        1 => Some(4 * 1024),
        2 => Some(16 * 1024),
        3 => Some(64 * 1024),
        _ => None,
    }
}

/// The most that a script sends to a reader: a small buffer makes TCP slow, whoever is in between.
fn most(reader: &Part) -> u64 {
    match reader.receive_buffer {
        Some(bytes) if bytes <= LEAST_BUFFER => 3000,
        Some(bytes) => 16 * bytes as u64,
        None => 2 << 20,
    }
}

fn most_for(script: &Script, writer: usize) -> u64 {
    most(if writer == 0 { &script.server } else { &script.client })
}

/// How much a side sends to `reader`: often nothing or little, sometimes a lot.
fn volume(dice: &mut Random, reader: &Part) -> u64 {
    let bytes = match dice.below(8) {
        0 => 0,
        1 => dice.within(1, 3),
        // Around the edge of a full TLS record.
        2 => dice.within(16_384 + 4, 16_384 + 6),
        3 | 4 => dice.below(20_000),
        5 | 6 => dice.below(300_000),
        _ => dice.below(2 << 20),
    };
    bytes.min(most(reader))
}

/// Cuts `hello + volume` bytes into writes, with pauses. The hello may come in bits, alone, or with what follows.
fn writes(dice: &mut Random, hello: u64, volume: u64) -> Vec<Out> {
    let mut steps = Vec::new();
    if dice.one_in(6) {
        steps.push(Out::Pause(dice.time(LONG)));
    }
    let mut left = volume;
    if hello > 0 {
        let mut head = hello;
        while dice.one_in(4) && head > 1 {
            let bit = dice.within(1, head - 1);
            steps.extend([Out::Write(size(bit)), Out::Pause(dice.time(SHORT))]);
            head -= bit;
        }
        let with_it = if dice.one_in(2) { dice.below(70_000).min(left) } else { 0 };
        steps.push(Out::Write(size(head + with_it)));
        left -= with_it;
    }
    let largest = match dice.below(4) {
        0 => (volume / 20).clamp(1, 1000),
        1 => 1 << 20,
        _ => 70_000,
    };
    while left > 0 {
        let piece = dice.within(1, largest).min(left);
        steps.push(Out::Write(size(piece)));
        left -= piece;
        if dice.one_in(6) {
            let most = if dice.one_in(12) { LONG } else { SHORT };
            steps.push(Out::Pause(dice.time(most)));
        }
    }
    steps
}

/// How many steps it takes until the first `bytes` are written.
fn steps_of(steps: &[Out], bytes: u64) -> usize {
    let mut sent = 0;
    let written = steps.iter().position(|step| {
        sent += if let Out::Write(bytes) = step { *bytes as u64 } else { 0 };
        sent >= bytes
    });
    written.map_or(steps.len(), |place| place + 1)
}

/// Keeps the steps that write the first `bytes`.
fn truncate(steps: &mut Vec<Out>, bytes: u64) {
    let mut left = bytes;
    for step in steps.iter_mut() {
        if let Out::Write(count) = step {
            *count = size((*count as u64).min(left));
            left -= *count as u64;
        }
    }
    steps.retain(|step| !matches!(step, Out::Write(0)));
}

/// How a side reads `volume` bytes.
fn reads(dice: &mut Random, volume: u64) -> Vec<In> {
    let mut steps = Vec::new();
    let mut left = volume;
    while left > 0 && steps.len() < 40 {
        let chunk = match dice.below(6) {
            0 => dice.within(1, 100),
            1 => dice.within(100, 5000),
            _ => 64 * 1024,
        };
        let bytes = dice.within(1, left).min(chunk * 50);
        steps.push(In::Read { bytes, chunk: size(chunk) });
        left -= bytes;
        if dice.one_in(3) {
            let most = if dice.one_in(8) { STALL } else { SHORT };
            steps.push(In::Pause(dice.time(most)));
        }
    }
    steps
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: u64 = 200;

    fn all() -> impl Iterator<Item = Script> {
        (0..400)
            .flat_map(|seed| [(seed, HELLO), (seed + 1000, 0)])
            .map(|(seed, hello)| generate(seed, 7, hello))
    }

    #[test]
    fn a_seed_and_a_flow_name_one_script() {
        assert_eq!(generate(5, 7, HELLO), generate(5, 7, HELLO));
        assert_ne!(generate(5, 7, HELLO), generate(5, 8, HELLO));
        assert_ne!(generate(5, 7, HELLO), generate(6, 7, HELLO));
    }

    #[test]
    fn flows_that_end_in_order_finish_once_on_both_sides() {
        for script in all().filter(|script| matches!(script.ends, Ends::InOrder { .. })) {
            for part in [&script.client, &script.server] {
                assert_eq!(part.out.last(), Some(&Out::Finish), "{script}");
                assert_eq!(part.out.iter().filter(|step| **step == Out::Finish).count(), 1, "{script}");
            }
        }
    }

    #[test]
    fn nobody_waits_for_bytes_that_never_come() {
        for script in all() {
            for (own, other) in [(&script.client, &script.server), (&script.server, &script.client)] {
                for step in &own.out {
                    if let Out::AwaitBytes(bytes) = step {
                        assert!(*bytes <= other.bytes(), "{script}");
                    }
                }
            }
        }
    }

    #[test]
    fn who_stops_reading_has_room_to_be_told_of_what_it_wrote() {
        let stops = |part: &&Part| part.into.contains(&In::Stop);
        let parts: Vec<Part> = all().flat_map(|script| [script.client, script.server]).collect();
        assert!(parts.iter().filter(stops).count() > 10);
        assert!(parts.iter().filter(stops).all(|part| part.receive_buffer.is_none()));
    }

    #[test]
    fn every_kind_of_step_is_drawn() {
        let scripts: Vec<Script> = all().collect();
        let has = |wanted: fn(&Out) -> bool| {
            scripts.iter().any(|script| script.client.out.iter().chain(&script.server.out).any(wanted))
        };
        assert!(has(|step| matches!(step, Out::Write(1))));
        assert!(has(|step| matches!(step, Out::Write(500_000..))));
        assert!(has(|step| *step == Out::AwaitEnd) && has(|step| *step == Out::AwaitUnread));
        assert!(has(|step| *step == Out::Reset) && has(|step| *step == Out::Close));
        assert!(scripts.iter().any(|script| script.client.receive_buffer == Some(LEAST_BUFFER)));
        assert!(scripts.iter().any(|script| script.client.bytes() < HELLO), "no cut within the hello");
        // The hello, the end, and nothing else.
        assert!(scripts.iter().any(|script| script.client.out == [Out::Write(200), Out::Finish]));
    }
}
