//! Local ports of connections to servers. When a flow leaves its sockets, the kernel takes its port for free, and would give
//! it to another connection to the same server. So these ports are our own, and we know which ones are in use. Each address of
//! this host has all of them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::Key;
use proxy_common::ports::are_own;
use socket2::Socket;

use super::port_table::{By, PortTable, Way};
use crate::kernel::Unavailable;
use crate::sys;

/// Between bind and connect nothing is waited for: nobody needs so long for it.
const CALL: Duration = Duration::from_millis(500);

/// Between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(1);

pub(super) struct Ports {
    range: RangeInclusive<u16>,
    sources: Vec<IpAddr>,
    next: AtomicU32,
    taken: Mutex<PortTable>,
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
                log: None,
                what: format!("the kernel may give ports {first}-{last} to other connections"),
                remedy: format!(
                    "sysctl -w net.ipv4.ip_local_reserved_ports={}{comma}{first}-{last}, or name other ports in [packet]",
                    reserved.trim()
                ),
            });
        }
        if let Some(strange) = sources.iter().find(|source| !is_here(**source)) {
            return Err(Unavailable {
                log: None,
                what: format!("{strange} is no address of this host"),
                remedy: format!(
                    "ip address add {strange} dev INTERFACE, or take it out of sources in [packet]"
                ),
            });
        }
        Ok(Self::of(range, sources))
    }

    /// No port of which is taken yet.
    pub(super) fn of(range: RangeInclusive<u16>, sources: &[IpAddr]) -> Self {
        let taken = Mutex::new(PortTable::new(range.clone()));
        Self { range, sources: sources.to_vec(), next: AtomicU32::new(0), taken }
    }

    /// Binds `socket` to a port, and perhaps an address, by which no flow of ours goes to `server`. None: there is no such port.
    /// What is returned keeps it from others that bind, and has to be kept until the socket is connected: then the kernel does.
    pub(super) fn bind(&self, socket: &Socket, server: SocketAddr) -> io::Result<Option<Reserved<'_>>> {
        socket.set_reuse_address(true)?;
        let sources = sources_for(&self.sources, server.ip());
        if self.taken().is_full(server, &sources) {
            return Ok(None);
        }
        for _ in 0..self.range.len() * sources.len() {
            let (source, port) = self.turn(&sources);
            let near = SocketAddr::new(source, port);
            let Some(reserved) = self.reserve(server, near) else { continue };
            match socket.bind(&near.into()) {
                Ok(()) => return Ok(Some(reserved)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                // It was an address of this host when the daemon started.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn reserve(&self, server: SocketAddr, near: SocketAddr) -> Option<Reserved<'_>> {
        let mut taken = self.taken();
        if taken.is_taken((server, near)) {
            return None;
        }
        taken.enter((server, near), By::Call);
        Some(Reserved { ports: self, server, near })
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
        self.taken().enter((server, near), By::Flow);
    }

    /// No longer.
    pub(super) fn give_back(&self, server: SocketAddr, near: SocketAddr) {
        self.taken().remove((server, near), By::Flow);
    }

    /// Takes the port of a flow that is about to close its sockets: as soon as they are closed the kernel gives it to whoever asks.
    /// Who asks from now on finds it taken. Who has bound to it before, and has not connected yet, is waited for: as long
    /// as the sockets are there the kernel refuses that at once.
    pub(super) async fn leave_by(&self, [_, server]: &[Key; 2]) -> Leaving<'_> {
        let way = (server.source_address(), server.target_address());
        self.taken().enter(way, By::Flow);
        let leaving = Leaving { ports: self, way, has_left: false };
        let begun = Instant::now();
        // By another address of ours it may be under way for long, and does no harm.
        while self.taken().is_called(way) && begun.elapsed() < CALL {
            tokio::time::sleep(LOOK).await;
        }
        leaving
    }

    fn taken(&self) -> MutexGuard<'_, PortTable> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port of a flow that is about to close its sockets. Dropped before it has: given back.
pub(super) struct Leaving<'a> {
    ports: &'a Ports,
    way: Way,
    has_left: bool,
}

impl Leaving<'_> {
    /// The port is the flow's until [`Ports::give_back`].
    pub(super) fn left(mut self) {
        self.has_left = true;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.has_left {
            self.ports.taken().remove(self.way, By::Flow);
        }
    }
}

/// A port by which a connection is being made.
pub(super) struct Reserved<'a> {
    ports: &'a Ports,
    server: SocketAddr,
    near: SocketAddr,
}

impl Reserved<'_> {
    /// None: what the route gives.
    pub(super) fn source(&self) -> Option<IpAddr> {
        Some(self.near.ip()).filter(|source| !source.is_unspecified())
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.ports.taken().remove((self.server, self.near), By::Call);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns_when_the_ports_of_one_are_used_up() {
        let [one, other, six]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|text| text.parse().unwrap());
        let ports = Ports {
            range: 61_000..=61_001,
            sources: vec![one, six, other],
            next: AtomicU32::new(0),
            taken: Mutex::new(PortTable::new(61_000..=61_001)),
        };
        let sources = sources_for(&ports.sources, "10.9.9.9".parse().unwrap());
        assert_eq!(sources, [one, other]);
        let turns: Vec<_> = (0..5).map(|_| ports.turn(&sources)).collect();
        assert_eq!(turns, [(one, 61_000), (one, 61_001), (other, 61_000), (other, 61_001), (one, 61_000)]);
        assert_eq!(sources_for(&[one], six), [IpAddr::from(Ipv6Addr::UNSPECIFIED)]);

        let server: SocketAddr = "10.9.9.9:443".parse().unwrap();
        let near = (one, 61_000).into();
        let reserved = ports.reserve(server, near).unwrap();
        assert!(ports.reserve(server, near).is_none());
        drop(reserved);
        ports.take(server, near);
        assert!(ports.reserve(server, near).is_none());
        ports.give_back(server, near);
        assert!(ports.reserve(server, near).is_some());
    }

    #[tokio::test]
    async fn a_port_is_taken_before_its_sockets_are_closed_and_who_may_connect_by_it_is_waited_for() {
        let ports = Ports {
            range: 61_000..=61_000,
            sources: Vec::new(),
            next: AtomicU32::new(0),
            taken: Mutex::new(PortTable::new(61_000..=61_000)),
        };
        let server: SocketAddr = "10.9.9.9:443".parse().unwrap();
        let (near, any) = ("10.0.0.1:61000".parse().unwrap(), "0.0.0.0:61000".parse().unwrap());
        let keys = [Key::default(), super::super::key(server, near)];
        let called = ports.reserve(server, any).unwrap();
        let mut leaving = Box::pin(ports.leave_by(&keys));
        let too_soon = tokio::time::timeout(5 * LOOK, &mut leaving).await;
        assert!(too_soon.is_err(), "somebody may be about to connect");
        drop(called);
        assert!(ports.reserve(server, any).is_none(), "it is taken already");
        let left = leaving.await;
        drop(left);
        assert!(ports.reserve(server, any).is_some(), "its hand-over has failed");
        ports.leave_by(&keys).await.left();
        assert!(ports.reserve(server, any).is_none());
        ports.give_back(server, near);
        assert!(ports.reserve(server, any).is_some());
    }
}
