//! Ethernet frames that carry TCP, right and wrong ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Flags of a TCP header.
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const PSH: u8 = 0x08;
/// See [`FIN`].
pub const ACK: u8 = 0x10;
/// See [`FIN`].
pub const URG: u8 = 0x20;

/// An IPv6 extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, so many units of 8 bytes beyond the first.
    HopByHop(u8),
    /// Destination options.
    Destination(u8),
    /// Routing, with so many segments left.
    Routing(u8),
    /// A fragment: its offset in units of 8 bytes, and whether more follow.
    Fragment(u16, bool),
    /// Authentication, so many units of 4 bytes beyond the first two.
    Authentication(u8),
}

/// A frame in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// VLAN tags: their EtherTypes.
    pub tags: Vec<u16>,
    /// Where from. Of the same family as `to`.
    pub from: IpAddr,
    /// Where to.
    pub to: IpAddr,
    /// Words of IPv4 options, at most 10.
    pub options: u8,
    /// IPv4 only: the offset in units of 8 bytes, and whether more follow.
    pub fragment: (u16, bool),
    /// IPv6 only.
    pub extensions: Vec<Extension>,
    /// What IP says it carries.
    pub protocol: u8,
    /// TCP ports.
    pub ports: (u16, u16),
    /// TCP flags.
    pub flags: u8,
    /// TCP's data offset in words.
    pub offset: u8,
    /// Bytes after the first 20 of the TCP header.
    pub rest: usize,
    /// Added to the length that the IP header tells.
    pub lie: i32,
    /// Whether that length is 0, as in packets that are put together from many.
    pub big: bool,
}

impl Frame {
    /// A plain segment without data.
    pub fn new(from: IpAddr, to: IpAddr, port: u16, flags: u8) -> Self {
        Self {
            tags: Vec::new(),
            from,
            to,
            options: 0,
            fragment: (0, false),
            extensions: Vec::new(),
            protocol: 6,
            ports: (40_000, port),
            flags,
            offset: 5,
            rest: 0,
            lie: 0,
            big: false,
        }
    }

    /// Its bytes. Checksums are right.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        let segment = self.segment();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(&mut bytes, from, to, &segment),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(&mut bytes, from, to, &segment),
            _ => {}
        }
        bytes
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.ports.0.to_be_bytes());
        segment.extend(self.ports.1.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0, self.offset << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.resize(20 + self.rest, 0);
        let pseudo = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => Vec::new(),
        };
        let length = u32::try_from(segment.len()).unwrap_or_default();
        let sum = checksum(&[&pseudo, &[0, 0, 0, 6][..], &length.to_be_bytes(), &segment].concat());
        if let Some(place) = segment.get_mut(16..18) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        segment
    }

    fn told(&self, length: usize) -> [u8; 2] {
        if self.big {
            return [0, 0];
        }
        let told = i64::try_from(length).unwrap_or_default() + i64::from(self.lie);
        u16::try_from(told.max(0)).unwrap_or(u16::MAX).to_be_bytes()
    }

    fn ipv4(&self, bytes: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) {
        let words = 5 + self.options;
        let mut header = vec![0x40 | words, 0];
        header.extend(self.told(usize::from(words) * 4 + segment.len()));
        let more = if self.fragment.1 { 0x2000 } else { 0 };
        header.extend([0, 1]);
        header.extend((self.fragment.0 | more).to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        // Options that do nothing.
        header.resize(usize::from(words) * 4, 1);
        let sum = checksum(&header);
        if let Some(place) = header.get_mut(10..12) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        bytes.extend([8, 0]);
        bytes.extend(header);
        bytes.extend(segment);
    }

    fn ipv6(&self, bytes: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr, segment: &[u8]) {
        let mut chain = Vec::new();
        let numbers: Vec<u8> = self.extensions.iter().map(|extension| extension.number()).collect();
        for (at, extension) in self.extensions.iter().enumerate() {
            chain.extend(extension.bytes(numbers.get(at + 1).copied().unwrap_or(self.protocol)));
        }
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(self.told(chain.len() + segment.len()));
        bytes.extend([numbers.first().copied().unwrap_or(self.protocol), 64]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(chain);
        bytes.extend(segment);
    }
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Destination(_) => 60,
            Self::Routing(_) => 43,
            Self::Fragment(..) => 44,
            Self::Authentication(_) => 51,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        let (size, third, fourth, length) = match self {
            Self::HopByHop(units) | Self::Destination(units) => (units, 1, 4, 8 * (usize::from(units) + 1)),
            Self::Routing(left) => (0, 4, left, 8),
            Self::Fragment(offset, more) => {
                let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
                (0, high, low, 8)
            }
            Self::Authentication(units) => (units, 0, 0, 4 * (usize::from(units) + 2)),
        };
        let mut bytes = vec![next, size, third, fourth];
        bytes.resize(length, 0);
        bytes
    }
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let pair = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
