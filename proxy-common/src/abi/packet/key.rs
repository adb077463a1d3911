//! What a packet bears when it comes in: the key of its entry.

/// An IP address as it stands in a packet; IPv4 as `::ffff:a.b.c.d`.
pub type Address = [u32; 4];

/// The first three words of an IPv4 address.
pub const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// What the packets of one end bear when they come in. All in the order of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Key {
    /// Where the packets come from.
    pub source: Address,
    /// Where they were sent to: an address of ours.
    pub target: Address,
    /// The source's port.
    pub source_port: u16,
    /// The target's.
    pub target_port: u16,
    /// 0.
    pub padding: u32,
}

/// Bytes of a [`Key`].
pub const KEY_BYTES: usize = 40;
/// Words of one.
pub const KEY_WORDS: usize = KEY_BYTES / 4;
const _: () = assert!(size_of::<Key>() == KEY_BYTES);

impl Key {
    /// As the map keeps it.
    #[must_use]
    pub const fn to_words(&self) -> [u32; KEY_WORDS] {
        let ([a, b, c, d], [e, f, g, h]) = (self.source, self.target);
        [a, b, c, d, e, f, g, h, join([self.source_port, self.target_port]), self.padding]
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub const fn from_words(words: [u32; KEY_WORDS]) -> Self {
        let [a, b, c, d, e, f, g, h, ports, padding] = words;
        let [source_port, target_port] = split(ports);
        Self { source: [a, b, c, d], target: [e, f, g, h], source_port, target_port, padding }
    }

    /// As events bear it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut words = [0; KEY_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Self::from_words(words)
    }

    /// The key of packets that go the other way on the same leg.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
            padding: 0,
        }
    }

    /// Where the packets come from.
    #[must_use]
    pub fn source_address(&self) -> core::net::SocketAddr {
        core::net::SocketAddr::new(address_from(&self.source), u16::from_be(self.source_port))
    }

    /// Where the packets go to.
    #[must_use]
    pub fn target_address(&self) -> core::net::SocketAddr {
        core::net::SocketAddr::new(address_from(&self.target), u16::from_be(self.target_port))
    }

    /// Whether both addresses are IPv4.
    #[must_use]
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        is_ipv4(&self.source)
    }
}

/// An address as the maps keep it.
#[must_use]
pub const fn address_of(address: core::net::IpAddr) -> Address {
    let bytes = match address {
        core::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        core::net::IpAddr::V6(address) => address.octets(),
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// The reverse of [`address_of`].
#[must_use]
pub fn address_from(address: &Address) -> core::net::IpAddr {
    let mut bytes = [0; 16];
    for (byte, value) in bytes.iter_mut().zip(address.iter().flat_map(|word| word.to_ne_bytes())) {
        *byte = value;
    }
    core::net::IpAddr::V6(bytes.into()).to_canonical()
}

/// Whether the address is an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn is_ipv4(address: &Address) -> bool {
    address[0] == MAPPED[0] && address[1] == MAPPED[1] && address[2] == MAPPED[2]
}

/// Two halves as they stand in memory.
pub(super) const fn join([one, other]: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The reverse.
pub(super) const fn split(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_packets() {
        for text in ["10.1.0.2", "fd00:1::2"] {
            let address = text.parse().unwrap();
            assert_eq!(address_from(&address_of(address)), address);
            assert_eq!(is_ipv4(&address_of(address)), address.is_ipv4());
        }
        let [.., last] = address_of("1.2.3.4".parse().unwrap());
        assert_eq!(last.to_ne_bytes(), [1, 2, 3, 4]);
    }

    #[test]
    fn keys_come_back() {
        let key =
            Key { source: [1, 2, 3, 4], target: [5, 6, 7, 8], source_port: 9, target_port: 10, padding: 0 };
        assert_eq!(Key::from_words(key.to_words()), key);
        let bytes: Vec<u8> = key.to_words().into_iter().flat_map(u32::to_ne_bytes).collect();
        assert_eq!(Key::from_bytes(bytes.first_chunk().unwrap()), key);
        assert_eq!(key.reversed().reversed(), key);
    }
}
