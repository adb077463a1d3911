//! What the kernel goes by while no daemon looks after the flows: a timer then removes those whose ends have gone.
//!
//! A walk over the map of flows cannot be done in parts, and as a whole it takes too long for a timer. But our ports are few:
//! so all ports that may lead to a server are asked for, some at a time.

use super::{Address, Key};

/// Name of the array with the timer.
pub const AGEING: &str = "AGEING";
/// Name of the array of words, indexed by [`watch`].
pub const WATCH: &str = "WATCH";
/// Name of the array of [`Server`]s.
pub const SERVERS: &str = "SERVERS";

/// Words of [`WATCH`].
pub mod watch {
    /// When the daemon was last seen, in milliseconds of the monotonic clock.
    pub const BEAT: u32 = 0;
    /// Bounds in milliseconds, see [`crate::packet::ageing::Limits`].
    pub const IDLE: u32 = 1;
    /// See above.
    pub const HALF_CLOSE: u32 = 2;
    /// See above.
    pub const LINGER: u32 = 3;
    /// Servers that there are.
    pub const SERVERS: u32 = 4;
    /// Where the timer goes on: the server,
    pub const SERVER: u32 = 5;
    /// and the port.
    pub const PORT: u32 = 6;
    /// The longest that the timer has taken at a time, in nanoseconds.
    pub const LONGEST: u32 = 7;
    /// How often it has gone round.
    pub const ROUNDS: u32 = 8;
    /// Number of them.
    pub const WORDS: usize = 9;
}

/// A daemon that was not seen for so long is taken for dead. It shows itself every second.
pub const DEAD_MS: u32 = 5000;

/// Most servers.
pub const MAX_SERVERS: usize = 1 << 12;

/// Ports that are asked for at a time.
pub const PORTS_AT_A_TIME: u32 = 128;

/// A server, as one of our addresses reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Server {
    /// The server's address, as in [`Key::source`] of its packets.
    pub source: Address,
    /// Ours.
    pub target: Address,
    /// The server's port, in the order of the network.
    pub source_port: u16,
    /// The first and the last one of our ports that may lead there, in the order of the host.
    pub first: u16,
    /// See above.
    pub last: u16,
    /// 0.
    pub padding: u16,
}

/// Words of a [`Server`].
pub const SERVER_WORDS: usize = 10;
const _: () = assert!(size_of::<Server>() == SERVER_WORDS * 4);

impl Server {
    /// The server that packets with this key come from, with our port only.
    #[must_use]
    pub const fn of(key: &Key) -> Self {
        let port = u16::from_be(key.target_port);
        let Key { source, target, source_port, .. } = *key;
        Self { source, target, source_port, first: port, last: port, padding: 0 }
    }

    /// The key of the packets that it sends to this port of ours.
    #[must_use]
    #[inline(always)]
    pub const fn key(&self, port: u16) -> Key {
        Key {
            source: self.source,
            target: self.target,
            source_port: self.source_port,
            target_port: port.to_be(),
            padding: 0,
        }
    }

    /// With the ports of both, which are the same server.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last), ..self }
    }

    /// As the map keeps it.
    #[must_use]
    pub fn to_words(&self) -> [u32; SERVER_WORDS] {
        let halves = |one: u16, other: u16| {
            let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
            u32::from_ne_bytes([a, b, c, d])
        };
        let ([a, b, c, d], [e, f, g, h]) = (self.source, self.target);
        let ports = [halves(self.source_port, self.first), halves(self.last, self.padding)];
        [a, b, c, d, e, f, g, h, ports[0], ports[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_knows_the_keys_of_its_packets() {
        let key = Key {
            source: [1, 2, 3, 4],
            target: [5, 6, 7, 8],
            source_port: 443_u16.to_be(),
            target_port: 61_000_u16.to_be(),
            padding: 0,
        };
        let server = Server::of(&key);
        assert_eq!(server.key(61_000), key);
        let wider = server.and(&Server::of(&server.key(61_007)));
        assert_eq!((wider.first, wider.last), (61_000, 61_007));
        let bytes: Vec<u8> = wider.to_words().into_iter().flat_map(u32::to_ne_bytes).collect();
        assert_eq!(bytes[34..38], [61_000_u16.to_ne_bytes(), 61_007_u16.to_ne_bytes()].concat());
    }
}
