//! From the bytes of an Ethernet frame to where its TCP header is.
//!
//! What is not understood is nobody's: it passes. Only what is TCP, whole enough to have ports, and not a later fragment is
//! looked at further.

/// The bytes of a packet, from the link-layer header on. Numbers are as they travel: the highest byte first.
pub trait Bytes {
    /// Two bytes. None: they are not there, or cannot be read.
    fn two(&self, at: usize) -> Option<u16>;
    /// Four bytes.
    fn four(&self, at: usize) -> Option<u32>;
    /// Eight bytes.
    fn eight(&self, at: usize) -> Option<u64>;
    /// Eight bytes, and as many more times.
    fn eights<const N: usize>(&self, at: usize) -> Option<[u64; N]>;

    /// Whether all of the packet can be read. It may lie in several pieces, of which only the first can.
    fn is_whole(&self) -> bool;
}

impl Bytes for [u8] {
    fn two(&self, at: usize) -> Option<u16> {
        self.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn four(&self, at: usize) -> Option<u32> {
        self.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    fn eight(&self, at: usize) -> Option<u64> {
        self.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
    }

    fn eights<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        let (eights, _) = self.get(at..)?.as_chunks();
        eights.first_chunk::<N>().map(|eights| eights.map(u64::from_be_bytes))
    }

    fn is_whole(&self) -> bool {
        true
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IP address, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// IPv4 or IPv6.
    pub family: Family,
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    pub first: u64,
    /// The last 64 bits of an IPv6 address.
    pub rest: u64,
}

impl Address {
    /// IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: u32) -> Self {
        Self { family: Family::V4, first: address as u64, rest: 0 }
    }

    /// IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn v6(first: u64, rest: u64) -> Self {
        Self { family: Family::V6, first, rest }
    }
}

/// A packet that begins a TCP segment, as far as the verdict needs it. It refers to the packet no more: the verifier then sees that
/// it does not matter where in the packet things were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to.
    pub destination: Address,
    /// The port there.
    pub port: u16,
    /// Of its header.
    pub head: Head,
}

/// Where things are in such a packet.
struct Layout {
    family: Family,
    /// Where the IP header is.
    ip: usize,
    /// Where the TCP header is.
    tcp: usize,
    /// Bytes of the segment by the word of the IP header. None: the packet is longer than that can say.
    length: Option<usize>,
    /// Further fragments follow.
    is_cut: bool,
}

/// What is wrong with a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The packet ends within the header.
    Truncated,
    /// The data offset points into the header, or beyond the segment.
    Offset,
    /// Flags that do not go together.
    Flags,
    /// The fragment ends within the header.
    Fragment,
}

/// EtherTypes (IEEE 802 numbers).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Where the EtherType is, and what a VLAN tag adds to that.
const ETHER_TYPE: usize = 12;
const TAG: usize = 4;

/// IP protocol numbers.
const HOP_BY_HOP: u64 = 0;
const TCP: u64 = 6;
const ROUTING: u64 = 43;
const FRAGMENT: u64 = 44;
const AUTHENTICATION: u64 = 51;
const DESTINATION: u64 = 60;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// What a header begins with.
const PORTS: usize = 4;

/// IPv6 extension headers that are followed. More than these no real packet has.
const MAX_EXTENSIONS: usize = 6;

/// Combinations of FIN, SYN, RST, ACK and URG that a segment may have, one bit for each, the five flags together being its
/// number. They are those that Linux' connection tracking takes for valid (`tcp_valid_flags`).
const VALID_FLAGS: u32 = {
    const FIN: u32 = 1;
    const SYN: u32 = 2;
    const RST: u32 = 4;
    const ACK: u32 = 8;
    const URG: u32 = 16;
    1 << SYN
        | 1 << (SYN | URG)
        | 1 << (SYN | ACK)
        | 1 << RST
        | 1 << (RST | ACK)
        | 1 << (FIN | ACK)
        | 1 << (FIN | ACK | URG)
        | 1 << ACK
        | 1 << (ACK | URG)
};

/// Reads a packet. None: it is something else, or a later fragment of something.
#[inline(always)]
pub fn segment<B: Bytes + ?Sized>(bytes: &B) -> Option<Segment> {
    // Nearly all packets are plain, and of these everything is where it always is.
    let plain = match bytes.two(ETHER_TYPE)? {
        IPV4 => plain_ipv4(bytes),
        IPV6 => plain_ipv6(bytes),
        _ => None,
    };
    match plain {
        Some(segment) => Some(segment),
        None => locate(bytes)?.segment(bytes),
    }
}

/// Where the IP header is without a VLAN tag.
const PLAIN: usize = ETHER_TYPE + 2;

/// Without options, whole.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
fn plain_ipv4<B: Bytes + ?Sized>(bytes: &B) -> Option<Segment> {
    let [head, source, destination, _, flags] = bytes.eights(PLAIN)?;
    if head >> 56 != 0x45 || head & 0x3fff != 0 || source >> 48 & 0xff != TCP {
        return None;
    }
    let length = match (head >> 32 & 0xffff) as usize {
        0 => None,
        total => Some(total.checked_sub(IPV4_HEADER)?),
    };
    Some(Segment {
        source: Address::v4(source as u32),
        destination: Address::v4((destination >> 32) as u32),
        port: destination as u16,
        head: Head::plain((flags >> 48) as u32, length)?,
    })
}

/// Without extension headers.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
fn plain_ipv6<B: Bytes + ?Sized>(bytes: &B) -> Option<Segment> {
    let [head, source, source_rest, destination, destination_rest, ports, flags] = bytes.eights(PLAIN)?;
    if head >> 60 != 6 || head >> 8 & 0xff != TCP {
        return None;
    }
    let length = match (head >> 16 & 0xffff) as usize {
        0 => None,
        payload => Some(payload),
    };
    Some(Segment {
        source: Address::v6(source, source_rest),
        destination: Address::v6(destination, destination_rest),
        port: (ports >> 32) as u16,
        head: Head::plain((flags >> 16 & 0xffff) as u32, length)?,
    })
}

/// Finds the headers.
#[inline(always)]
fn locate<B: Bytes + ?Sized>(bytes: &B) -> Option<Layout> {
    let mut at = ETHER_TYPE;
    let mut kind = bytes.two(at)?;
    for _ in 0..2 {
        if kind != VLAN && kind != SERVICE_VLAN {
            break;
        }
        at += TAG;
        kind = bytes.two(at)?;
    }
    match kind {
        IPV4 => locate_ipv4(bytes, at + 2),
        IPV6 => locate_ipv6(bytes, at + 2),
        _ => None,
    }
}

#[inline(always)]
fn locate_ipv4<B: Bytes + ?Sized>(bytes: &B, ip: usize) -> Option<Layout> {
    let head = bytes.eight(ip)?;
    let protocol = u64::from(bytes.two(ip + 8)? & 0xff);
    let header = ((head >> 56) & 0x0f) as usize * 4;
    if head >> 60 != 4 || header < IPV4_HEADER || protocol != TCP {
        return None;
    }
    // Of a later fragment nobody knows the port.
    if head & 0x1fff != 0 {
        return None;
    }
    let length = match (head >> 32 & 0xffff) as usize {
        // What the kernel has put together from many packets may be longer than 65,535 bytes, and then says 0 (since 6.3).
        0 => None,
        total => Some(total.checked_sub(header)?),
    };
    Some(Layout { family: Family::V4, ip, tcp: ip + header, length, is_cut: head & 0x2000 != 0 })
}

#[inline(always)]
fn locate_ipv6<B: Bytes + ?Sized>(bytes: &B, ip: usize) -> Option<Layout> {
    let head = bytes.eight(ip)?;
    if head >> 60 != 6 {
        return None;
    }
    let payload = (head >> 16 & 0xffff) as usize;
    let mut next = head >> 8 & 0xff;
    let mut at = ip + IPV6_HEADER;
    let mut is_cut = false;
    for _ in 0..=MAX_EXTENSIONS {
        if next == TCP {
            let length = match payload {
                // Jumbograms (RFC 2675), which the kernel makes of many packets.
                0 => None,
                _ => Some(payload.checked_sub(at - ip - IPV6_HEADER)?),
            };
            return Some(Layout { family: Family::V6, ip, tcp: at, length, is_cut });
        }
        let extension = bytes.four(at)?;
        let size = (extension >> 16 & 0xff) as usize;
        at += match next {
            HOP_BY_HOP | DESTINATION => (size + 1) * 8,
            // With segments left, the address of the header is not where the packet is to end.
            ROUTING if extension & 0xff == 0 => (size + 1) * 8,
            FRAGMENT if extension & 0xfff8 == 0 => {
                is_cut |= extension & 1 != 0;
                8
            }
            AUTHENTICATION => (size + 2) * 4,
            _ => return None,
        };
        next = u64::from(extension >> 24);
    }
    None
}

impl Layout {
    #[inline(always)]
    fn segment<B: Bytes + ?Sized>(&self, bytes: &B) -> Option<Segment> {
        // A segment that is too short for its ports has none, whatever follows it in the frame.
        if self.length.is_some_and(|length| length < PORTS) {
            return None;
        }
        Some(Segment {
            port: bytes.two(self.tcp + 2)?,
            source: self.address(bytes, 12, 8)?,
            destination: self.address(bytes, 16, 24)?,
            head: self.head(bytes),
        })
    }

    #[inline(always)]
    fn address<B: Bytes + ?Sized>(&self, bytes: &B, ipv4: usize, ipv6: usize) -> Option<Address> {
        match self.family {
            Family::V4 => Some(Address::v4(bytes.four(self.ip + ipv4)?)),
            Family::V6 => Some(Address::v6(bytes.eight(self.ip + ipv6)?, bytes.eight(self.ip + ipv6 + 8)?)),
        }
    }

    #[inline(always)]
    fn head<B: Bytes + ?Sized>(&self, bytes: &B) -> Head {
        let word = match bytes.two(self.tcp + 12) {
            Some(word) => u32::from(word),
            None if bytes.is_whole() => MISSING,
            None => UNREADABLE,
        };
        Head { word, length: self.length, is_cut: self.is_cut }
    }
}

/// What the verdict needs of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The data offset and the flags, or [`MISSING`] or [`UNREADABLE`].
    word: u32,
    length: Option<usize>,
    is_cut: bool,
}

/// The packet ends before.
const MISSING: u32 = 1 << 16;
/// The rest is in a piece that cannot be read: nothing can be said against it.
const UNREADABLE: u32 = 1 << 17;

impl Head {
    /// Of a packet that is not cut. None: it has no ports.
    #[inline(always)]
    fn plain(word: u32, length: Option<usize>) -> Option<Self> {
        if length.is_some_and(|length| length < PORTS) {
            return None;
        }
        Some(Self { word, length, is_cut: false })
    }

    /// Whether the segment asks for a connection, if its header is one that can be.
    ///
    /// # Errors
    /// What is wrong with the header.
    #[inline(always)]
    pub fn opens(&self) -> Result<bool, Defect> {
        let short = if self.is_cut { Defect::Fragment } else { Defect::Truncated };
        if self.word == MISSING || self.length.is_some_and(|length| length < TCP_HEADER) {
            return Err(short);
        }
        if self.word == UNREADABLE {
            return Ok(false);
        }
        let header = (self.word >> 12) as usize * 4;
        if header < TCP_HEADER {
            return Err(Defect::Offset);
        }
        if self.length.is_some_and(|length| length < header) {
            return Err(if self.is_cut { Defect::Fragment } else { Defect::Offset });
        }
        // All but PSH, without a gap.
        let number = (self.word & 0x07) | ((self.word >> 1) & 0x18);
        if VALID_FLAGS >> number & 1 == 0 {
            return Err(Defect::Flags);
        }
        Ok(self.word & 0x12 == 0x02)
    }
}
