//! The listening sockets of all workers. They follow the configuration while connections run: a socket that stays is
//! never opened again, and the queue of one that goes is served first.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::hub::snapshot::{Listener, Snapshot};
use crate::hub::{Bound, ListenerKey, Workers};
use crate::sys;

/// One socket for each worker, by listener and address.
pub(crate) type Sockets = HashMap<ListenerKey, Vec<TcpListener>>;

/// A listener cannot have one of its addresses.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (listener \"{listener}\"): {error}")]
pub(crate) struct BindError {
    pub(crate) listener: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
}

/// The sockets that are open.
pub(crate) struct ListenerSet {
    workers: Arc<Workers>,
    /// Duplicates of what the workers have, so that another process can be given them.
    open: Sockets,
}

impl ListenerSet {
    pub(crate) fn new(workers: Arc<Workers>) -> Self {
        Self { workers, open: Sockets::new() }
    }

    /// Opens what `config` has beyond what is open, then closes what it has no more. `inherited` are sockets that
    /// another process has bound: they are used as they are.
    ///
    /// # Errors
    /// An address cannot be bound. Then nothing has changed.
    pub(crate) fn follow(&mut self, config: &Snapshot, mut inherited: Sockets) -> Result<(), BindError> {
        let wanted: Vec<_> = config.listeners.iter().flat_map(keys).collect();
        let added: Vec<_> = wanted.iter().filter(|(key, _)| !self.open.contains_key(key)).collect();
        for (key, _) in &added {
            let is_ours = self.open.keys().any(|open| open.address == key.address);
            if !is_ours && !inherited.contains_key(key) {
                // Sockets that share a port let a second daemon share it too: find out before.
                sys::check_free(key.address).map_err(|error| failed(key, error))?;
            }
        }
        let mut bound = Vec::new();
        for (key, listener) in added {
            let sockets = inherited.remove(key).unwrap_or_default();
            let pairs = self.bind(key, sockets, config.timeouts.keepalive);
            bound.push((key, listener, pairs.map_err(|error| failed(key, error))?));
        }
        for (key, listener, pairs) in bound {
            let sockets = pairs.into_iter().enumerate().map(|(worker, [socket, duplicate])| {
                self.workers
                    .listen(worker, Bound { key: key.clone(), listener: Arc::clone(listener), socket });
                duplicate
            });
            let sockets = sockets.collect();
            self.open.insert(key.clone(), sockets);
        }
        let is_wanted = |open: &ListenerKey| wanted.iter().any(|(key, _)| key == open);
        let gone: Vec<_> = self.open.keys().filter(|open| !is_wanted(open)).cloned().collect();
        for key in gone {
            // The worker's is the last one: once it is closed, the kernel refuses connections.
            self.open.remove(&key);
            self.workers.unlisten(&key);
        }
        Ok(())
    }

    /// A socket for each worker, and its duplicate.
    fn bind(
        &self,
        key: &ListenerKey,
        inherited: Vec<TcpListener>,
        silence: Duration,
    ) -> io::Result<Vec<[TcpListener; 2]>> {
        let mut inherited = inherited.into_iter();
        let socket = |_| {
            let socket = match inherited.next() {
                Some(socket) => socket,
                None => sys::bind(key.address, true, Some(silence))?,
            };
            let duplicate = socket.try_clone()?;
            Ok([socket, duplicate])
        };
        (0..self.workers.count()).map(socket).collect()
    }

    /// Closes all sockets, once what is queued is served.
    pub(crate) fn drain(&mut self) {
        self.open.clear();
        self.workers.drain();
    }
}

fn keys(listener: &Arc<Listener>) -> impl Iterator<Item = (ListenerKey, &Arc<Listener>)> {
    let key = |address: &SocketAddr| ListenerKey { name: Arc::clone(&listener.name), address: *address };
    listener.addresses.iter().map(move |address| (key(address), listener))
}

fn failed(key: &ListenerKey, error: io::Error) -> BindError {
    BindError { listener: Arc::clone(&key.name), address: key.address, error }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;
    use crate::hub::{Command, Inbox};

    const WORKERS: usize = 2;

    fn config(listeners: &[(&str, &[SocketAddr])]) -> Snapshot {
        let listener = |(name, addresses): &(&str, &[SocketAddr])| {
            Arc::new(Listener { name: Arc::from(*name), addresses: addresses.to_vec(), to: None })
        };
        Snapshot { listeners: listeners.iter().map(listener).collect(), ..Snapshot::default() }
    }

    /// An address of this host that nobody listens on, kept for as long as the returned socket lives.
    fn free_address() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    fn commands(inbox: &mut Inbox) -> Vec<Command> {
        std::iter::from_fn(|| inbox.try_next()).collect()
    }

    fn bound(inbox: &mut Inbox) -> Vec<Bound> {
        let bound = |command| match command {
            Command::Listen(bound) => bound,
            _ => panic!("not told to listen"),
        };
        commands(inbox).into_iter().map(bound).collect()
    }

    #[test]
    fn sockets_follow_the_configuration_and_one_that_stays_is_not_opened_again() {
        let ((_one, first), (_other, second)) = (free_address(), free_address());
        let (workers, mut inboxes) = Workers::new(WORKERS);
        let mut set = ListenerSet::new(workers);
        set.follow(&config(&[("tls", &[first])]), Sockets::new()).unwrap();
        let open: Vec<_> = inboxes.iter_mut().flat_map(bound).collect();
        assert_eq!(open.len(), WORKERS);
        drop(TcpStream::connect(first).unwrap());

        set.follow(&config(&[("tls", &[first]), ("more", &[second])]), Sockets::new()).unwrap();
        let more: Vec<_> = inboxes.iter_mut().flat_map(bound).collect();
        assert!(more.len() == WORKERS && more.iter().all(|bound| bound.key.address == second));

        set.follow(&config(&[("more", &[second])]), Sockets::new()).unwrap();
        for inbox in &mut inboxes {
            let told = commands(inbox);
            assert!(matches!(&told[..], [Command::Unlisten(key)] if key.address == first));
        }
        drop(open);
        assert_eq!(TcpStream::connect(first).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(TcpStream::connect(second).unwrap());
    }

    #[test]
    fn an_address_that_cannot_be_bound_changes_nothing() {
        let (_free, first) = free_address();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (workers, mut inboxes) = Workers::new(WORKERS);
        let mut set = ListenerSet::new(workers);
        let wanted = config(&[("tls", &[first]), ("taken", &[taken.local_addr().unwrap()])]);
        let error = set.follow(&wanted, Sockets::new()).unwrap_err();
        assert_eq!((&*error.listener, error.error.kind()), ("taken", io::ErrorKind::AddrInUse));
        assert!(inboxes.iter_mut().all(|inbox| commands(inbox).is_empty()) && set.open.is_empty());
    }

    /// The listener has another name: connections in the queue of the old sockets are served by these.
    #[test]
    fn a_listener_that_is_renamed_keeps_its_address_open() {
        let (_free, address) = free_address();
        let (workers, mut inboxes) = Workers::new(1);
        let mut set = ListenerSet::new(workers);
        set.follow(&config(&[("old", &[address])]), Sockets::new()).unwrap();
        let old = inboxes.iter_mut().flat_map(bound).next().unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        set.follow(&config(&[("new", &[address])]), Sockets::new()).unwrap();
        let told = inboxes.iter_mut().flat_map(commands).collect::<Vec<_>>();
        assert!(matches!(&told[..], [Command::Listen(_), Command::Unlisten(key)] if *key == old.key));
        old.socket.set_nonblocking(false).unwrap();
        assert_eq!(old.socket.accept().unwrap().1, waiting.local_addr().unwrap());
    }

    /// Connections that wait in the queue of a socket go with it.
    #[test]
    fn inherited_sockets_are_used_as_they_are() {
        let (_free, address) = free_address();
        let socket = sys::bind(address, true, None).unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        let (workers, mut inboxes) = Workers::new(1);
        let key = ListenerKey { name: "tls".into(), address };
        let inherited = Sockets::from([(key, vec![socket])]);
        let mut set = ListenerSet::new(workers);
        set.follow(&config(&[("tls", &[address])]), inherited).unwrap();
        let taken = inboxes.iter_mut().flat_map(bound).next().unwrap();
        taken.socket.set_nonblocking(false).unwrap();
        assert_eq!(taken.socket.accept().unwrap().1, waiting.local_addr().unwrap());
    }
}
