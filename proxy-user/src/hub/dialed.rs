//! Our own connections to servers, by their addresses: so that one that comes back to us is known as ours.
//!
//! A server that is this daemon itself (by another address of the host, by a name, by a redirect) would accept each
//! connection and make another one to itself, until no slot is left.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use super::LogThrottle;

/// More addresses than connections are made from. Beyond that the old ones are forgotten.
const MAX_LEARNED: usize = 4096;

/// ConnectionLimit for connections that have ended is kept for so many, and for as many as there are.
const SPARE: usize = 1024;

/// An address as both ends of a connection see it: without the scope of a link-local one, and IPv4 mapped into IPv6. Half as large as
/// a [`SocketAddr`]: every connection has two of them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct End {
    ip: Ipv6Addr,
    port: u16,
}

/// Our address and that of the server.
type Ends = (End, End);

/// All of them.
#[derive(Default)]
pub(crate) struct Dialing {
    state: Mutex<State>,
    /// Rung when a connection that was under way is in `live`, or has failed.
    settled: Condvar,
    addresses: RwLock<Addresses>,
    pub(crate) throttle: LogThrottle,
}

#[derive(Default)]
struct State {
    /// With the id of the flow.
    live: HashMap<Ends, u64>,
    /// Servers whose SYN may have been sent, and the number of each attempt: one for each worker at most. The kernel may accept such a
    /// connection before we know its port.
    under_way: Vec<(u64, End)>,
    /// Attempts, ever.
    begun: u64,
    /// Threads that wait for one. To ring for nobody would cost a system call.
    waiting: usize,
}

/// Addresses that our connections may come from.
#[derive(Default)]
struct Addresses {
    /// Those of this host, as it says.
    host: HashSet<IpAddr>,
    /// Those that connections were made from: of networks that a route makes this host's own no address is listed.
    learned: HashSet<IpAddr>,
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
        let far = End::of(server);
        let under_way = self.begin(far);
        let local = plain(dial()?);
        self.learn(local.ip());
        let near = End::of(local);
        let ends = (near, far);
        let is_own = {
            let mut state = self.state();
            state.live.insert(ends, flow);
            near == far || state.live.contains_key(&(far, near))
        };
        drop(under_way);
        let dialed = Dialed { dialing: self, ends, flow };
        if is_own {
            let text = "nothing listens there: the connection was answered by a socket of this daemon";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
        }
        Ok(dialed)
    }

    fn begin(&self, server: End) -> UnderWay<'_> {
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.under_way.push((number, server));
        UnderWay { dialing: self, number }
    }

    /// The flow whose connection to a server was accepted as one from `client` to `listener`, which `redirected` from another
    /// address, if it was. Both are asked only if the client's address may be one of ours. Waits for attempts to connect to such an
    /// address that are being made by other threads, for as long as the call of the system takes.
    pub(crate) fn find(
        &self,
        client: SocketAddr,
        listener: impl FnOnce() -> Option<SocketAddr>,
        redirected: impl FnOnce(SocketAddr) -> Option<SocketAddr>,
    ) -> Option<u64> {
        let client = plain(client);
        if !self.may_be_ours(client.ip()) {
            return None;
        }
        let listener = listener()?;
        let (client, near) = (End::of(client), End::of(listener));
        if let Some(flow) = self.state().live.get(&(client, near)) {
            return Some(*flow);
        }
        // Another program of this host may have the same port, to another address.
        let wanted = redirected(listener).map_or(near, End::of);
        let mut state = self.state();
        // Those that have begun since sent their SYN after this one.
        let last = state.begun;
        loop {
            let found = [near, wanted].iter().find_map(|server| state.live.get(&(client, *server)));
            if let Some(flow) = found {
                return Some(*flow);
            }
            let is_meant =
                |(number, server): &(u64, End)| *number <= last && (*server == near || *server == wanted);
            if !state.under_way.iter().any(is_meant) {
                return None;
            }
            state.waiting += 1;
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// This host has these addresses now.
    pub(crate) fn set_own_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let host = addresses.into_iter().map(|address| address.to_canonical()).collect();
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).host = host;
    }

    fn may_be_ours(&self, address: IpAddr) -> bool {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        address.is_loopback() || addresses.host.contains(&address) || addresses.learned.contains(&address)
    }

    fn learn(&self, address: IpAddr) {
        if self.may_be_ours(address) {
            return;
        }
        let learned = &mut self.addresses.write().unwrap_or_else(PoisonError::into_inner).learned;
        if learned.len() >= MAX_LEARNED {
            learned.clear();
        }
        learned.insert(address);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to connect, until its connection is in `live` or has failed.
struct UnderWay<'a> {
    dialing: &'a Dialing,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.dialing.state();
        state.under_way.retain(|(number, _)| *number != self.number);
        if state.waiting > 0 {
            self.dialing.settled.notify_all();
        }
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
    pub(crate) fn near(&self) -> SocketAddr {
        self.ends.0.address()
    }
}

impl Drop for Dialed<'_> {
    fn drop(&mut self) {
        let live = &mut self.dialing.state().live;
        // Its socket may be closed already, and another flow have the same ports.
        if live.get(&self.ends) == Some(&self.flow) {
            live.remove(&self.ends);
        }
        if live.capacity() / 4 > live.len() + SPARE {
            live.shrink_to(2 * live.len() + SPARE);
        }
    }
}

impl End {
    fn of(address: SocketAddr) -> Self {
        let address = plain(address);
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip, port: address.port() }
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip.to_canonical(), self.port)
    }
}

/// The address that a connection to `server` goes to: the kernel takes another one for an unspecified one.
pub(crate) fn reached(server: SocketAddr) -> SocketAddr {
    if server.ip().is_unspecified() { plain(server) } else { server }
}

/// Without the scope of a link-local address, IPv4 as such, and the address that the kernel takes for an unspecified one.
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
        let find = |client, listener| dialing.find(at(client), || Some(at(listener)), |_| None);
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
        let find = |wanted| dialing.find(at("10.0.0.1:40000"), || Some(at("10.0.0.1:443")), |_| wanted);
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
        assert_eq!(dialing.state().live.len(), 1, "what was refused is not kept");
    }

    #[test]
    fn a_port_that_another_flow_has_got_meanwhile_stays_its_own() {
        let dialing = Dialing::default();
        let first = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.1:443").unwrap();
        let _second = dial(&dialing, 8, "10.0.0.1:40000", "10.0.0.1:443").unwrap();
        drop(first);
        let listener = || Some(at("10.0.0.1:443"));
        assert_eq!(dialing.find(at("10.0.0.1:40000"), listener, |_| None), Some(8));
    }

    /// That costs a system call.
    #[test]
    fn nobody_asks_where_a_client_of_another_host_wanted_to_go() {
        let dialing = Dialing::default();
        dialing.set_own_addresses([at("10.0.0.1:0").ip()]);
        let _dialed = dial(&dialing, 7, "10.0.0.1:40000", "10.0.0.9:443").unwrap();
        let find = |client, listener: Option<&str>| {
            let asked = std::cell::Cell::new(false);
            let listener = || {
                asked.set(true);
                listener.map(at)
            };
            (dialing.find(at(client), listener, |_| None), asked.get())
        };
        assert_eq!(find("10.0.0.2:40000", Some("10.0.0.1:443")), (None, false));
        assert_eq!(
            find("10.0.0.9:40000", Some("10.0.0.1:443")),
            (None, false),
            "a server that is a client, too"
        );
        for ours in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "127.0.0.9:1", "[::1]:1"] {
            assert_eq!(find(ours, Some("10.0.0.1:443")), (None, true), "{ours}");
        }
        assert_eq!(find("10.0.0.1:40000", None), (None, true), "reset meanwhile");
    }

    /// It comes back by a redirect, from an address that no connection was made from before.
    #[test]
    fn the_first_connection_from_an_address_is_known_while_it_is_being_made() {
        let dialing = Dialing::default();
        dialing.set_own_addresses([at("10.0.0.1:0").ip()]);
        std::thread::scope(|scope| {
            let (sent, accepted) = std::sync::mpsc::channel();
            let (tell, is_looked_for) = std::sync::mpsc::channel();
            let dialing = &dialing;
            let server = at("10.0.0.9:443");
            scope.spawn(move || {
                let dialed = dialing.dial(7, server, || {
                    sent.send(()).unwrap();
                    is_looked_for.recv().unwrap();
                    Ok(at("10.0.0.1:40000"))
                });
                std::mem::forget(dialed.unwrap());
            });
            accepted.recv().unwrap();
            let other = dialing.find(at("10.0.0.1:40001"), || Some(at("10.0.0.1:443")), |_| None);
            assert_eq!(other, None, "one that nothing under way goes to waits for nothing");
            let redirected = |_| {
                tell.send(()).unwrap();
                Some(server)
            };
            let found = dialing.find(at("10.0.0.1:40000"), || Some(at("10.0.0.1:443")), redirected);
            assert_eq!(found, Some(7));
        });
        assert!(dialing.state().under_way.is_empty());
    }

    #[test]
    fn an_attempt_that_fails_is_not_waited_for() {
        let dialing = Dialing::default();
        dialing.set_own_addresses([at("10.0.0.1:0").ip()]);
        let failed = dialing.dial(7, at("10.0.0.1:443"), || Err(io::ErrorKind::AddrNotAvailable.into()));
        assert!(failed.is_err());
        assert_eq!(dialing.find(at("10.0.0.1:40000"), || Some(at("10.0.0.1:443")), |_| None), None);
    }

    #[test]
    fn memory_of_connections_that_have_ended_is_given_back() {
        let dialing = Dialing::default();
        let near = |port: u32| format!("10.0.0.{}:{}", port / 60_000, port % 60_000 + 1);
        let all: Vec<_> =
            (0..20_000).map(|port| dial(&dialing, 7, &near(port), "10.0.1.1:443").unwrap()).collect();
        assert!(dialing.state().live.capacity() >= 20_000);
        drop(all);
        assert!(dialing.state().live.is_empty());
        assert!(dialing.state().live.capacity() <= 8 * SPARE, "{}", dialing.state().live.capacity());
    }
}
