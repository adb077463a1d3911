//! Which ports of ours are in use for which server, and how many.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// What has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A flow without sockets, or one that is about to close them.
    Flow,
    /// A connection that is being made.
    Call,
}

/// A server, and an address and port of ours.
pub(super) type Way = (SocketAddr, SocketAddr);

pub(super) struct PortTable {
    range: RangeInclusive<u16>,
    servers: HashMap<SocketAddr, Used>,
}

/// Of one server.
#[derive(Default)]
struct Used {
    /// By which addresses of ours. An unspecified one may be any.
    ports: HashMap<u16, Vec<(IpAddr, By)>>,
    /// How many of `ports` are in the range: flows of an earlier daemon may have others,
    own: usize,
    /// and by one address each.
    by_address: HashMap<IpAddr, usize>,
}

impl PortTable {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, servers: HashMap::new() }
    }

    pub(super) fn enter(&mut self, (server, near): Way, by: By) {
        let used = self.servers.entry(plain(server)).or_default();
        let holders = used.ports.entry(near.port()).or_default();
        if self.range.contains(&near.port()) {
            used.own += usize::from(holders.is_empty());
            if !has(holders, near.ip()) {
                *used.by_address.entry(near.ip()).or_default() += 1;
            }
        }
        holders.push((near.ip(), by));
    }

    /// What was entered once is removed once.
    pub(super) fn remove(&mut self, (server, near): Way, by: By) {
        let Some(used) = self.servers.get_mut(&plain(server)) else { return };
        let Some(holders) = used.ports.get_mut(&near.port()) else { return };
        let Some(place) = holders.iter().position(|holder| *holder == (near.ip(), by)) else { return };
        holders.swap_remove(place);
        let is_empty = holders.is_empty();
        if self.range.contains(&near.port()) {
            used.own -= usize::from(is_empty);
            if !has(holders, near.ip())
                && let Some(count) = used.by_address.get_mut(&near.ip())
            {
                *count -= 1;
            }
        }
        if is_empty {
            used.ports.remove(&near.port());
        }
        if used.ports.is_empty() {
            self.servers.remove(&plain(server));
        }
    }

    /// What the route will give for an unspecified address is not known yet: any address may be it.
    pub(super) fn is_taken(&self, (server, near): Way) -> bool {
        let meets = |ip: IpAddr| near.ip().is_unspecified() || ip.is_unspecified() || ip == near.ip();
        self.holders(server, near.port()).iter().any(|(ip, _)| meets(*ip))
    }

    /// Whether a connection is being made that may be by this address and port.
    pub(super) fn is_called(&self, (server, near): Way) -> bool {
        let meets = |ip: IpAddr| ip.is_unspecified() || ip == near.ip();
        self.holders(server, near.port()).iter().any(|(ip, by)| *by == By::Call && meets(*ip))
    }

    /// Whether no port of the range is left by any of these addresses.
    pub(super) fn is_full(&self, server: SocketAddr, sources: &[IpAddr]) -> bool {
        let Some(used) = self.servers.get(&plain(server)) else { return false };
        sources.iter().all(|source| {
            let by_it = used.by_address.get(source).copied().unwrap_or(0);
            (if source.is_unspecified() { used.own } else { by_it }) >= self.range.len()
        })
    }

    fn holders(&self, server: SocketAddr, port: u16) -> &[(IpAddr, By)] {
        let found = self.servers.get(&plain(server)).and_then(|used| used.ports.get(&port));
        found.map_or(&[], Vec::as_slice)
    }
}

fn has(holders: &[(IpAddr, By)], address: IpAddr) -> bool {
    holders.iter().any(|(ip, _)| *ip == address)
}

/// As the entries of flows have it, however it was written.
fn plain(server: SocketAddr) -> SocketAddr {
    SocketAddr::new(server.ip().to_canonical(), server.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SERVER: &str = "10.9.9.9:443";

    fn way(server: &str, near: &str) -> Way {
        (server.parse().unwrap(), near.parse().unwrap())
    }

    #[test]
    fn a_port_is_taken_by_its_address_and_where_any_may_be_it() {
        let mut taken = PortTable::new(61_000..=61_001);
        taken.enter(way(SERVER, "10.0.0.1:61000"), By::Flow);
        let is_taken = |taken: &PortTable, near| taken.is_taken(way(SERVER, near));
        assert!(is_taken(&taken, "10.0.0.1:61000") && is_taken(&taken, "0.0.0.0:61000"));
        assert!(!is_taken(&taken, "10.0.0.2:61000") && !is_taken(&taken, "0.0.0.0:61001"));
        assert!(taken.is_taken(way("[::ffff:10.9.9.9]:443", "10.0.0.1:61000")), "the same server");
        taken.enter(way(SERVER, "0.0.0.0:61001"), By::Call);
        assert!(is_taken(&taken, "10.0.0.2:61001"));
        assert!(taken.is_called(way(SERVER, "10.0.0.2:61001")));
        assert!(!taken.is_called(way(SERVER, "10.0.0.1:61000")));
        taken.remove(way(SERVER, "0.0.0.0:61001"), By::Call);
        taken.remove(way(SERVER, "10.0.0.1:61000"), By::Flow);
        assert!(!is_taken(&taken, "0.0.0.0:61000") && taken.servers.is_empty());
    }

    #[test]
    fn it_is_known_when_no_port_is_left() {
        let mut taken = PortTable::new(61_000..=61_001);
        let (one, other, any) = (ip("10.0.0.1"), ip("10.0.0.2"), ip("0.0.0.0"));
        let server = SERVER.parse().unwrap();
        let is_full = |taken: &PortTable, sources: &[IpAddr]| taken.is_full(server, sources);
        for near in ["10.0.0.1:61000", "10.0.0.1:61000", "10.0.0.1:7", "10.0.0.1:8"] {
            taken.enter(way(SERVER, near), By::Flow);
            assert!(!is_full(&taken, &[one]) && !is_full(&taken, &[any]), "{near}");
        }
        taken.enter(way(SERVER, "10.0.0.1:61001"), By::Flow);
        assert!(is_full(&taken, &[one]) && is_full(&taken, &[any]) && !is_full(&taken, &[one, other]));
        assert!(!taken.is_full("10.9.9.9:444".parse().unwrap(), &[one]));
        taken.remove(way(SERVER, "10.0.0.1:61000"), By::Flow);
        assert!(is_full(&taken, &[one]), "it was entered twice");
        taken.remove(way(SERVER, "10.0.0.1:61000"), By::Flow);
        assert!(!is_full(&taken, &[one]) && !is_full(&taken, &[any]));
    }
}
