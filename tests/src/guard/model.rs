//! What the guard should do, in the plainest words: slow, and without a thought of where it runs.
#![expect(clippy::indexing_slicing, reason = "a mistake in the model may panic: it runs in tests only")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the guard was told. Rates are not part of it.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Where is listened.
    pub listeners: Vec<(IpAddr, u16)>,
    /// Networks that are allowed: an address and how many of its bits count.
    pub allow: Vec<(IpAddr, u8)>,
    /// Networks that are denied.
    pub deny: Vec<(IpAddr, u8)>,
    /// Networks that are banned.
    pub banned: Vec<(IpAddr, u8)>,
}

/// A TCP packet that says where it goes.
struct Packet<'a> {
    from: IpAddr,
    to: IpAddr,
    /// The segment, as far as it is there.
    segment: &'a [u8],
    /// How long it is by the word of IP.
    length: Option<usize>,
    is_cut: bool,
}

impl Site {
    /// The label of the reason that a frame passes or is dropped for.
    pub fn judge(&self, frame: &[u8]) -> &'static str {
        self.judge_packet(frame).unwrap_or("other")
    }

    fn judge_packet(&self, frame: &[u8]) -> Option<&'static str> {
        let packet = read(frame)?;
        if packet.length.is_some_and(|length| length < 4) {
            return None;
        }
        let port = number(packet.segment.get(2..4)?);
        if !self.listeners.iter().any(|&(address, listened)| address == packet.to && listened == port) {
            return None;
        }
        let on = |list: &[(IpAddr, u8)]| list.iter().any(|&(net, bits)| contains(net, bits, packet.from));
        Some(match () {
            () if on(&self.allow) => "allowed",
            () if on(&self.deny) => "denied",
            () if on(&self.banned) => "banned",
            () => header(&packet),
        })
    }
}

fn header(packet: &Packet<'_>) -> &'static str {
    let short = if packet.is_cut { "fragment" } else { "truncated" };
    let length = packet.length.unwrap_or(usize::MAX);
    let (Some(offset), Some(flags)) = (packet.segment.get(12), packet.segment.get(13)) else {
        return short;
    };
    let words = usize::from(offset >> 4);
    if length < 20 {
        return short;
    }
    if words < 5 {
        return "offset";
    }
    if words * 4 > length {
        return if packet.is_cut { "fragment" } else { "offset" };
    }
    let names: String = ["F", "S", "R", "", "A", "U"]
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    match names.as_str() {
        "S" | "SU" => "syn",
        "SA" | "R" | "RA" | "FA" | "FAU" | "A" | "AU" => "segment",
        _ => "flags",
    }
}

fn read(frame: &[u8]) -> Option<Packet<'_>> {
    let mut rest = frame.get(12..)?;
    for _ in 0..2 {
        if matches!(number(rest.get(..2)?), 0x8100 | 0x88a8) {
            rest = rest.get(4..)?;
        }
    }
    match number(rest.get(..2)?) {
        0x0800 => read_v4(rest.get(2..)?),
        0x86dd => read_v6(rest.get(2..)?),
        _ => None,
    }
}

fn read_v4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = packet.get(..20)?;
    let size = usize::from(header[0] % 16) * 4;
    let [total, fragment] = [number(&header[2..4]), number(&header[6..8])];
    if header[0] / 16 != 4 || size < 20 || header[9] != 6 || fragment % 8192 != 0 {
        return None;
    }
    let length = if total == 0 { None } else { Some(usize::from(total).checked_sub(size)?) };
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or_default());
    Some(Packet {
        from: address(12),
        to: address(16),
        segment: packet.get(size..).unwrap_or_default(),
        length,
        is_cut: fragment & 0x2000 != 0,
    })
}

fn read_v6(packet: &[u8]) -> Option<Packet<'_>> {
    let header = packet.get(..40)?;
    if header[0] / 16 != 6 {
        return None;
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap_or_default());
    let total = usize::from(number(&header[4..6]));
    let (mut next, mut used, mut is_cut) = (header[6], 0, false);
    for _ in 0..=6 {
        let rest = packet.get(40 + used..).unwrap_or_default();
        if next == 6 {
            let length = if total == 0 { None } else { Some(total.checked_sub(used)?) };
            return Some(Packet { from: address(8), to: address(24), segment: rest, length, is_cut });
        }
        let extension = rest.get(..4)?;
        used += match next {
            0 | 60 => 8 + 8 * usize::from(extension[1]),
            43 if extension[3] == 0 => 8 + 8 * usize::from(extension[1]),
            44 if number(&extension[2..4]) / 8 == 0 => 8,
            51 => 8 + 4 * usize::from(extension[1]),
            _ => return None,
        };
        is_cut |= next == 44 && extension[3] % 2 == 1;
        next = extension[0];
    }
    None
}

fn number(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u16::from(byte))
}

/// Whether an address is in a network.
pub fn contains(net: IpAddr, bits: u8, address: IpAddr) -> bool {
    let same = |net: &[u8], address: &[u8]| {
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        (0..usize::from(bits)).all(|at| bit(net, at) == bit(address, at))
    };
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => same(&Ipv4Addr::octets(&net), &address.octets()),
        (IpAddr::V6(net), IpAddr::V6(address)) => same(&Ipv6Addr::octets(&net), &address.octets()),
        _ => false,
    }
}
