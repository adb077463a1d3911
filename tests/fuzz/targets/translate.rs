//! A whole TCP header with its options, translated by differences as the programs do it, against a model that knows of none: it reads
//! the options into a list, moves their numbers, and adds up the checksum from the first byte to the last.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use proxy_common::packet::header::{Header, Shift, tcp};
use proxy_common::packet::options::{MAX, Walk};
use proxy_common::packet::sum::{Difference, Sum};

const FIXED: usize = 20;

fuzz_target!(|noise: &[u8]| {
    // Where the noise ends before the header does there is nothing to translate.
    let _ = look(&mut Unstructured::new(noise));
});

fn look(noise: &mut Unstructured<'_>) -> Result<()> {
    let shift = Shift {
        seq: noise.arbitrary()?,
        ack: noise.arbitrary()?,
        stamp: noise.arbitrary()?,
        echo: noise.arbitrary()?,
        least_ack: noise.arbitrary()?,
        scale: [noise.int_in_range(0..=14)?, noise.int_in_range(0..=14)?],
    };
    let ports: [u16; 2] = noise.arbitrary()?;
    // What else the checksum covers, and what does not change.
    let rest: u32 = noise.arbitrary()?;
    let mut fixed: [u8; FIXED] = noise.arbitrary()?;
    let size = noise.len().min(MAX) & !3;
    let options = noise.bytes(size)?;
    write(&mut fixed, 16, &[0, 0]);
    let sum = checksum(rest, &fixed, options);

    let (moved, moved_options, sum_by_difference) = by_difference(&shift, ports, &fixed, options, sum);
    let (wanted, wanted_options, stamp) = model(&shift, ports, &fixed, options);
    assert_eq!(moved, wanted);
    assert_eq!(moved_options.bytes.get(..options.len()), Some(wanted_options.as_slice()));
    assert!(moved_options.bytes.iter().skip(options.len()).all(|byte| *byte == 0), "behind the options");
    assert_eq!((moved_options.has_stamp != 0).then_some(moved_options.stamp), stamp);
    assert_eq!(normal(sum_by_difference), normal(checksum(rest, &wanted, &wanted_options)));
    Ok(())
}

fn by_difference(
    shift: &Shift,
    ports: [u16; 2],
    fixed: &[u8; FIXED],
    options: &[u8],
    sum: u16,
) -> ([u8; FIXED], Walk, u16) {
    let mut header = header(fixed);
    let difference = shift.translate(&mut header, ports);
    let mut walk = Walk::EMPTY;
    for (place, byte) in walk.bytes.iter_mut().zip(options) {
        *place = *byte;
    }
    walk.len = u32::try_from(options.len()).unwrap_or(0);
    let old = walk.bytes;
    let mut steps = 0;
    while walk.step(shift) {
        steps += 1;
        assert!(steps <= MAX, "a walk that does not end");
    }
    let words = words(&old).zip(words(&walk.bytes));
    let options = words.fold(Difference::NONE, |difference, (old, new)| difference.word(old, new));
    (bytes(&header), walk, difference.and(options).apply(sum))
}

fn model(
    shift: &Shift,
    ports: [u16; 2],
    fixed: &[u8; FIXED],
    options: &[u8],
) -> ([u8; FIXED], Vec<u8>, Option<u32>) {
    let mut out = *fixed;
    let [source, target] = ports.map(u16::to_ne_bytes);
    write(&mut out, 0, &source);
    write(&mut out, 2, &target);
    write(&mut out, 4, &four(fixed, 4).wrapping_add(shift.seq).to_be_bytes());
    if fixed.get(13).is_some_and(|flags| flags & tcp::ACK != 0) {
        let ack = four(fixed, 8);
        let ack = match shift.least_ack {
            // Behind it by less than half of all numbers.
            Some(least) if least.wrapping_sub(ack).cast_signed() > 0 => least,
            // Half of all numbers away, either may be the later one.
            Some(least) if least.wrapping_sub(ack) == 1 << 31 => least,
            _ => ack,
        };
        write(&mut out, 8, &ack.wrapping_add(shift.ack).to_be_bytes());
    }
    let window = u64::from(four(fixed, 12) & 0xffff) << shift.scale[0];
    let told = (window >> shift.scale[1]).clamp(u64::from(window != 0), 0xffff);
    write(&mut out, 14, &u16::try_from(told).unwrap_or(0).to_be_bytes());
    let (options, stamp) = model_options(shift, options);
    (out, options, stamp)
}

fn model_options(shift: &Shift, options: &[u8]) -> (Vec<u8>, Option<u32>) {
    let mut out = options.to_vec();
    let (mut at, mut found) = (0, None);
    while let Some(rest) = out.get_mut(at..) {
        match rest {
            [1, ..] => at += 1,
            [kind, len, ..] if *kind > 1 && *len >= 2 && usize::from(*len) <= options.len() - at => {
                let (kind, len) = (*kind, usize::from(*len));
                let body = rest.get_mut(2..len).unwrap_or_default();
                match (kind, body.len()) {
                    (8, 8) => {
                        let (stamp, echo) = (four(body, 0), four(body, 4));
                        found = Some(stamp);
                        write(body, 0, &stamp.wrapping_add(shift.stamp).to_be_bytes());
                        if echo != 0 {
                            write(body, 4, &echo.wrapping_add(shift.echo).to_be_bytes());
                        }
                    }
                    (5, _) => {
                        for edge in body.chunks_exact_mut(4).take(8) {
                            let moved = four(edge, 0).wrapping_add(shift.ack);
                            write(edge, 0, &moved.to_be_bytes());
                        }
                    }
                    _ => {}
                }
                at += len;
            }
            _ => break,
        }
    }
    (out, found)
}

/// RFC 1071, byte by byte.
fn checksum(rest: u32, fixed: &[u8; FIXED], options: &[u8]) -> u16 {
    let all = [&rest.to_ne_bytes(), fixed.as_slice(), options].concat();
    let halves =
        all.chunks_exact(2).map(|pair| u64::from(u16::from_ne_bytes([half(pair, 0), half(pair, 1)])));
    let mut sum: u64 = halves.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    // The sum of the core says the same.
    let core = words(&all).fold(Sum::default(), Sum::word).checksum();
    assert_eq!(normal(core), normal(sum));
    sum
}

/// 0 and 0xffff are the same number in one's complement.
fn normal(sum: u16) -> u16 {
    if sum == u16::MAX { 0 } else { sum }
}

fn header(fixed: &[u8; FIXED]) -> Header {
    let pair = |at| u16::from_ne_bytes([half(fixed, at), half(fixed, at + 1)]);
    Header {
        ports: [pair(0), pair(2)],
        seq: four(fixed, 4).to_be(),
        ack: four(fixed, 8).to_be(),
        offset: half(fixed, 12),
        flags: half(fixed, 13),
        window: pair(14),
        sum: pair(16),
        urgent: pair(18),
    }
}

fn bytes(header: &Header) -> [u8; FIXED] {
    let mut out = [0; FIXED];
    let [source, target] = header.ports.map(u16::to_ne_bytes);
    write(&mut out, 0, &source);
    write(&mut out, 2, &target);
    write(&mut out, 4, &header.seq.to_ne_bytes());
    write(&mut out, 8, &header.ack.to_ne_bytes());
    write(&mut out, 12, &[header.offset, header.flags]);
    write(&mut out, 14, &header.window.to_ne_bytes());
    write(&mut out, 16, &header.sum.to_ne_bytes());
    write(&mut out, 18, &header.urgent.to_ne_bytes());
    out
}

fn write(to: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in to.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

fn half(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Big-endian.
fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([half(bytes, at), half(bytes, at + 1), half(bytes, at + 2), half(bytes, at + 3)])
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).filter_map(|word| word.first_chunk()).map(|word| u32::from_ne_bytes(*word))
}
