//! Local ports of connections to servers. When a flow leaves its sockets, the kernel takes its port for free, and would give
//! it to another connection to the same server. So these ports are our own, and we know which ones are in use. Each address of
//! this host has all of them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpSocket;

use crate::kernel::Unavailable;
use crate::sys;

/// A server, and a port of ours.
type Pair = (SocketAddr, u16);

pub(super) struct Ports {
    range: RangeInclusive<u16>,
    sources: Vec<IpAddr>,
    next: AtomicU32,
    /// By which addresses of ours flows without sockets go.
    taken: Mutex<HashMap<Pair, Vec<IpAddr>>>,
}

impl Ports {
    /// Err: the kernel may give the ports to others, or an address is not ours.
    pub(super) fn new(range: RangeInclusive<u16>, sources: &[IpAddr]) -> Result<Self, Unavailable> {
        let setting =
            |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        let reserved = setting("ip_local_reserved_ports");
        if !are_own(&range, &setting("ip_local_port_range"), &reserved) {
            let (first, last) = (range.start(), range.end());
            let comma = if reserved.trim().is_empty() { "" } else { "," };
            return Err(Unavailable {
                what: format!("the kernel may give ports {first}-{last} to other connections"),
                remedy: format!(
                    "sysctl -w net.ipv4.ip_local_reserved_ports={}{comma}{first}-{last}, or name other ports in [packet]",
                    reserved.trim()
                ),
            });
        }
        if let Some(strange) = sources.iter().find(|source| !is_here(**source)) {
            return Err(Unavailable {
                what: format!("{strange} is no address of this host"),
                remedy: format!(
                    "ip address add {strange} dev INTERFACE, or take it out of sources in [packet]"
                ),
            });
        }
        Ok(Self { range, sources: sources.to_vec(), next: AtomicU32::new(0), taken: Mutex::default() })
    }

    /// Binds `socket` to a port, and perhaps an address, by which no flow of ours goes to `server`. Gives the address; none:
    /// there is no such port.
    pub(super) fn bind(&self, socket: &TcpSocket, server: SocketAddr) -> io::Result<Option<IpAddr>> {
        socket.set_reuseaddr(true)?;
        let sources = sources_for(&self.sources, server.ip());
        for _ in 0..self.range.len() * sources.len() {
            let (source, port) = self.turn(&sources);
            if self.is_taken(server, source, port) {
                continue;
            }
            match socket.bind(SocketAddr::new(source, port)) {
                Ok(()) => return Ok(Some(source)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                // It was an address of this host when the daemon started.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The ports of one address, then those of the next.
    fn turn(&self, sources: &[IpAddr]) -> (IpAddr, u16) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let ports = u32::try_from(self.range.len()).unwrap_or(1).max(1);
        let port =
            u16::try_from(u32::from(*self.range.start()) + next % ports).unwrap_or(*self.range.start());
        let place = usize::try_from(next / ports).unwrap_or(0) % sources.len().max(1);
        (sources.get(place).copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port)
    }

    /// Whether it is one of ours.
    pub(super) fn is_own(&self, port: u16) -> bool {
        self.range.contains(&port)
    }

    /// A flow without sockets goes by it.
    pub(super) fn take(&self, server: SocketAddr, near: SocketAddr) {
        self.taken().entry((server, near.port())).or_default().push(near.ip());
    }

    /// No longer.
    pub(super) fn give_back(&self, server: SocketAddr, near: SocketAddr) {
        let (mut taken, pair) = (self.taken(), (server, near.port()));
        if let Some(sources) = taken.get_mut(&pair) {
            sources.retain(|source| *source != near.ip());
            if sources.is_empty() {
                taken.remove(&pair);
            }
        }
    }

    /// What the route will give is not known yet: any address may be it.
    fn is_taken(&self, server: SocketAddr, source: IpAddr, port: u16) -> bool {
        let taken = self.taken();
        let found = taken.get(&(server, port));
        found.is_some_and(|sources| source.is_unspecified() || sources.contains(&source))
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Pair, Vec<IpAddr>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those of the server's family; without one, what the route gives.
fn sources_for(sources: &[IpAddr], server: IpAddr) -> Vec<IpAddr> {
    let own: Vec<_> = sources.iter().copied().filter(|source| source.is_ipv4() == server.is_ipv4()).collect();
    if !own.is_empty() {
        return own;
    }
    vec![if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }]
}

fn is_here(source: IpAddr) -> bool {
    source.is_unspecified() || sys::route(None, source).is_ok_and(|route| route.is_here)
}

/// Whether the kernel gives none of `range` to connections that ask for no port: those of `local`, without `reserved`.
fn are_own(range: &RangeInclusive<u16>, local: &str, reserved: &str) -> bool {
    let mut bounds = local.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    let (Some(first), Some(last)) = (bounds.next(), bounds.next()) else { return false };
    let reserved: Vec<RangeInclusive<u16>> = reserved.trim().split(',').filter_map(parts).collect();
    range.clone().all(|port| {
        !(first..=last).contains(&port) || reserved.iter().any(|reserved| reserved.contains(&port))
    })
}

fn parts(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_own_outside_the_local_range_or_reserved_in_it() {
        let own = |range, reserved| are_own(&range, "32768\t60999\n", reserved);
        assert!(own(61_000..=65_535, "\n"));
        assert!(!own(60_999..=61_000, ""));
        assert!(own(40_000..=40_010, "1,40000-40010\n"));
        assert!(!own(40_000..=40_010, "40000-40009"));
        assert!(!are_own(&(61_000..=61_001), "", ""), "the kernel does not tell");
    }

    #[test]
    fn addresses_take_turns_when_the_ports_of_one_are_used_up() {
        let [one, other, six]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|text| text.parse().unwrap());
        let ports = Ports {
            range: 61_000..=61_001,
            sources: vec![one, six, other],
            next: AtomicU32::new(0),
            taken: Mutex::default(),
        };
        let sources = sources_for(&ports.sources, "10.9.9.9".parse().unwrap());
        assert_eq!(sources, [one, other]);
        let turns: Vec<_> = (0..5).map(|_| ports.turn(&sources)).collect();
        assert_eq!(turns, [(one, 61_000), (one, 61_001), (other, 61_000), (other, 61_001), (one, 61_000)]);
        assert_eq!(sources_for(&[one], six), [IpAddr::from(Ipv6Addr::UNSPECIFIED)]);

        let server: SocketAddr = "10.9.9.9:443".parse().unwrap();
        ports.take(server, (one, 61_000).into());
        let any = Ipv4Addr::UNSPECIFIED.into();
        assert!(ports.is_taken(server, one, 61_000) && ports.is_taken(server, any, 61_000));
        assert!(!ports.is_taken(server, other, 61_000) && !ports.is_taken(server, any, 61_001));
        ports.give_back(server, (one, 61_000).into());
        assert!(!ports.is_taken(server, any, 61_000) && ports.taken().is_empty());
    }
}
