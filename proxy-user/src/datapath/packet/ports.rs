//! Local ports of connections to servers. When a flow leaves its sockets, the kernel takes its port for free, and would give
//! it to another connection to the same server. So these ports are our own, and we know which ones are in use.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpSocket;

use crate::kernel::Unavailable;

/// A port of ours that leads to a server.
type Taken = (SocketAddr, u16);

pub(super) struct Ports {
    range: RangeInclusive<u16>,
    next: AtomicU32,
    taken: Mutex<HashSet<Taken>>,
}

impl Ports {
    /// Err: the kernel may give the ports to others.
    pub(super) fn new(range: RangeInclusive<u16>) -> Result<Self, Unavailable> {
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
        Ok(Self { range, next: AtomicU32::new(0), taken: Mutex::default() })
    }

    /// Binds `socket` to a port by which no flow of ours goes to `server`. Says whether there was one.
    pub(super) fn bind(&self, socket: &TcpSocket, server: SocketAddr) -> io::Result<bool> {
        socket.set_reuseaddr(true)?;
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        for _ in self.range.clone() {
            let port = self.turn();
            if self.taken().contains(&(server, port)) {
                continue;
            }
            match socket.bind(SocketAddr::new(any, port)) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn turn(&self) -> u16 {
        let (first, last) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let step = self.next.fetch_add(1, Ordering::Relaxed) % (last - first + 1);
        u16::try_from(first + step).unwrap_or(*self.range.start())
    }

    /// Whether it is one of ours.
    pub(super) fn is_own(&self, port: u16) -> bool {
        self.range.contains(&port)
    }

    /// A flow without sockets goes by it. Says whether that is the first one.
    pub(super) fn take(&self, server: SocketAddr, port: u16) -> bool {
        self.taken().insert((server, port))
    }

    /// No longer.
    pub(super) fn give_back(&self, server: SocketAddr, port: u16) {
        self.taken().remove(&(server, port));
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
