//! Our own connections to servers, by their addresses: so that one that comes back to us is known as ours.
//!
//! A server that is this daemon itself (by another address of the host, by a name, by a redirect) would accept each
//! connection and make another one to itself, until no slot is left.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::Complaint;

/// More addresses than a host has. Beyond that the old ones are forgotten.
const MAX_ADDRESSES: usize = 4096;

/// Our address and that of the server, in canonical form.
type Ends = (SocketAddr, SocketAddr);

/// All of them.
#[derive(Default)]
pub(crate) struct Dialing {
    /// Held for reading from before a SYN is sent until its connection is in `live`. Who takes it for writing finds every
    /// connection there whose SYN was sent before.
    under_way: RwLock<()>,
    /// With the id of the flow.
    live: Mutex<HashMap<Ends, u64>>,
    /// The addresses of ours that connections were made from.
    addresses: RwLock<HashSet<IpAddr>>,
    pub(crate) complaint: Complaint,
}

impl Dialing {
    /// Sends the SYN to `server` by `dial`, which returns the local address, for the flow with this id.
    ///
    /// Err: what `dial` says. Or the answer came from our own socket: a SYN to a port that nobody listens on is
    /// answered by the socket that sent it if the kernel has chosen the same port for it, or by another one of ours that
    /// connects the opposite way (simultaneous open, RFC 9293 section 3.5).
    pub(crate) fn dial(
        &self,
        flow: u64,
        server: SocketAddr,
        dial: impl FnOnce() -> io::Result<SocketAddr>,
    ) -> io::Result<Dialed<'_>> {
        let under_way = self.under_way.read().unwrap_or_else(PoisonError::into_inner);
        let ends @ (near, far) = (plain(dial()?), plain(server));
        let is_own = {
            let mut live = self.live();
            live.insert(ends, flow);
            near == far || live.contains_key(&(far, near))
        };
        drop(under_way);
        let dialed = Dialed { dialing: self, ends, flow };
        if is_own {
            let text = "nothing listens there: the connection was answered by a socket of this daemon";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
        }
        self.learn(near.ip());
        Ok(dialed)
    }

    /// The flow whose connection to a server was accepted as one from `client` to `listener`, which `redirected` from another
    /// address, if it was.
    pub(crate) fn find(
        &self,
        client: SocketAddr,
        listener: SocketAddr,
        redirected: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<u64> {
        let (client, listener) = (plain(client), plain(listener));
        // To an address of this host the kernel connects from the same one, if nothing else is asked for.
        if client.ip() != listener.ip() && !self.knows(client.ip()) {
            return None;
        }
        drop(self.under_way.write().unwrap_or_else(PoisonError::into_inner));
        if let Some(flow) = self.live().get(&(client, listener)) {
            return Some(*flow);
        }
        // Another program of this host may have the same port, to another address.
        let wanted = plain(redirected()?);
        self.live().get(&(client, wanted)).copied()
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    fn learn(&self, address: IpAddr) {
        if self.knows(address) {
            return;
        }
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_ADDRESSES {
            addresses.clear();
        }
        addresses.insert(address);
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Ends, u64>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to a server, made or being made. To be kept as long as its socket.
pub(crate) struct Dialed<'a> {
    dialing: &'a Dialing,
    ends: Ends,
    flow: u64,
}

impl Dialed<'_> {
    /// Our own address.
    pub(crate) const fn near(&self) -> SocketAddr {
        self.ends.0
    }
}

impl Drop for Dialed<'_> {
    fn drop(&mut self) {
        let mut live = self.dialing.live();
        // Its socket may be closed already, and another flow have the same ports.
        if live.get(&self.ends) == Some(&self.flow) {
            live.remove(&self.ends);
        }
    }
}

/// As both ends of a connection see it: without the scope of a link-local address, IPv4 as such, and the address that the kernel
/// takes for an unspecified one.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn dial<'a>(dialing: &'a Dialing, flow: u64, near: &str, server: &str) -> io::Result<Dialed<'a>> {
        dialing.dial(flow, at(server), || Ok(at(near)))
    }

    #[test]
    fn a_connection_that_comes_back_is_known_until_it_is_over() {
        let dialing = Dialing::default();
        let dialed = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.1:443").unwrap();
        let find = |client, listener| dialing.find(at(client), at(listener), || None);
        assert_eq!(find("10.0.0.1:40000", "10.0.0.1:443"), Some(7));
        assert_eq!(
            find("[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.1]:443"),
            Some(7),
            "a dual-stack listener"
        );
        assert_eq!(find("10.0.0.1:40001", "10.0.0.1:443"), None);
        drop(dialed);
        assert_eq!(find("10.0.0.1:40000", "10.0.0.1:443"), None);
    }

    /// A port of ours is free for others who connect to another address.
    #[test]
    fn a_program_of_this_host_that_has_the_same_port_is_not_taken_for_us() {
        let dialing = Dialing::default();
        let _dialed = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.9:443").unwrap();
        let find = |wanted| dialing.find(at("10.0.0.1:40000"), at("10.0.0.1:443"), || wanted);
        assert_eq!(find(None), None);
        assert_eq!(find(Some(at("10.0.0.8:443"))), None, "somebody else's redirect");
        assert_eq!(find(Some(at("10.0.0.9:443"))), Some(7), "a redirect of ours");
    }

    #[test]
    fn an_answer_of_our_own_socket_is_a_refusal() {
        let dialing = Dialing::default();
        for (near, server) in [
            ("10.0.0.1:40000", "10.0.0.1:40000"),
            ("127.0.0.1:40000", "0.0.0.0:40000"),
            ("[::1]:5", "[::]:5"),
        ] {
            let refused = dial(&dialing, 7, near, server).map(drop).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{near} {server}");
        }
        let _one = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.1:40001").unwrap();
        let other = dial(&dialing, 8, "10.0.0.1:40001", "10.0.0.1:40000").map(drop).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(dialing.live().len(), 1, "what was refused is not kept");
    }

    #[test]
    fn a_port_that_another_flow_has_got_meanwhile_stays_its_own() {
        let dialing = Dialing::default();
        let first = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.1:443").unwrap();
        let _second = dial(&dialing, 8, "10.0.0.1:40000", "10.0.0.1:443").unwrap();
        drop(first);
        assert_eq!(dialing.find(at("10.0.0.1:40000"), at("10.0.0.1:443"), || None), Some(8));
    }
}
