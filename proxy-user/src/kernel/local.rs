//! Servers on this host: their sockets are found and captured, so that what they send can go straight into the client's
//! socket. Nothing is attached to the host or to a cgroup: a program is run by hand, and finds the one socket that is the
//! other end of ours.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, Map, MapData, MapError, SockHash};
use aya::programs::{Iter, SchedClassifier, SkMsg};
use aya::{Btf, Ebpf};
use proxy_common::abi::local::{
    Answer, BACKENDS, BYPASS, BYPASSES, CAPTURED, MARK, MARKS, REACH, Request, SEIZE, SEIZE_KIND,
    TUPLE_BYTES, Task,
};
use proxy_common::abi::sockmap::Place;

use super::Unavailable;
use super::object::{into_io, missing, program, refused, take};
use crate::sys;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_LOCAL"));

/// Finds and captures the sockets of servers.
#[derive(Clone)]
pub(crate) struct BackendLookup {
    program: Arc<OwnedFd>,
    /// The kernel empties a map of sockets whose last descriptor is closed.
    backends: Arc<OwnedFd>,
    bypass: Arc<OwnedFd>,
    /// Id of that program.
    bypass_id: u32,
    /// One capture or release at a time, of all workers: one takes some 20 us.
    captures: Arc<Mutex<Captures>>,
}

/// What captures sockets and lets them go.
struct Captures {
    /// The iterator over marked sockets. None: the other program captures by itself.
    seize: Option<OwnedFd>,
    sockets: SockHash<MapData, u64>,
    /// Address of a captured socket -> where its bytes go.
    bypasses: MapData,
    /// Cookie of our socket to the server -> address of the server's socket.
    addresses: HashMap<MapData, u64, u64>,
}

impl Captures {
    fn load(
        ebpf: &mut Ebpf,
        sockets: SockHash<MapData, u64>,
        seize: Option<OwnedFd>,
    ) -> Result<Self, Unavailable> {
        let Some(Map::HashMap(bypasses)) = ebpf.take_map(BYPASSES) else { return Err(missing(BYPASSES)) };
        Ok(Self { seize, sockets, bypasses, addresses: take(ebpf, CAPTURED)? })
    }

    /// Forgets a captured socket.
    fn release(&mut self, upstream: u64) -> io::Result<()> {
        // It leaves the map by itself when it is closed.
        let removed = or_gone(self.sockets.remove(&upstream));
        if let Ok(address) = self.addresses.get(&upstream, 0) {
            // A later flow may have the address by now: it then goes the ordinary way.
            sys::delete_entry(&self.bypasses.fd().as_fd(), address)?;
            or_gone(self.addresses.remove(&upstream))?;
        }
        removed
    }
}

/// The program that finds sockets, and the iterator that captures them if the first may not.
fn load_finder(ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<(OwnedFd, Option<OwnedFd>), Unavailable> {
    // Linux 7.3 and later refuse the first.
    if let Ok(lookup) = classifier(ebpf, REACH) {
        return Ok((lookup, None));
    }
    Ok((classifier(ebpf, MARK)?, Some(iterator(ebpf, btf)?)))
}

fn classifier(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd, Unavailable> {
    let loaded: &mut SchedClassifier = program(ebpf, name)?;
    loaded.load().map_err(refused)?;
    let held = loaded.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    held.map_err(|error| Unavailable::explain("a descriptor cannot be duplicated", &error))
}

fn iterator(ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<OwnedFd, Unavailable> {
    let Some(Map::SkStorage(marks)) = ebpf.take_map(MARKS) else { return Err(missing(MARKS)) };
    let absent = || io::Error::from_raw_os_error(libc::ENOENT);
    let btf = btf.ok_or_else(|| Unavailable::explain("the kernel does not describe its types", &absent()))?;
    let seize: &mut Iter = program(ebpf, SEIZE)?;
    seize.load(SEIZE_KIND, btf).map_err(refused)?;
    sys::link_iterator(&seize.fd().map_err(refused)?.as_fd(), &marks.fd().as_fd())
        .map_err(|error| Unavailable::explain("a BPF iterator cannot be attached", &error))
}

fn or_gone(removed: Result<(), MapError>) -> io::Result<()> {
    match removed.map_err(into_io) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// The two ends of our connection to a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FourTuple {
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
}

impl FourTuple {
    /// The server has an address of this host, as far as the addresses tell.
    pub(crate) fn are_on_one_host(&self) -> bool {
        let [near, far] = [self.near, self.far].map(|end| end.ip().to_canonical());
        far.is_loopback() || far == near
    }

    /// A request about the socket at the other end of ours.
    fn request(&self, task: Task) -> Request {
        let ends = [self.near, self.far];
        let mut tuple = [0; TUPLE_BYTES];
        let addresses = ends.into_iter().flat_map(|end| octets(end.ip().to_canonical()));
        let ports = ends.into_iter().flat_map(|end| end.port().to_be_bytes());
        for (to, from) in tuple.iter_mut().zip(addresses.chain(ports)) {
            *to = from;
        }
        let family = if self.near.ip().to_canonical().is_ipv4() { 4 } else { 6 };
        Request { family, tuple, ..empty(task) }
    }
}

fn empty(task: Task) -> Request {
    Request {
        task: task as u64,
        upstream: 0,
        client: 0,
        slot: 0,
        before: 0,
        family: 0,
        tuple: [0; TUPLE_BYTES],
        padding: [0; 4],
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl BackendLookup {
    /// Loads the programs, and attaches what is to be attached to the map of captured sockets.
    pub(super) fn load(ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<Self, Unavailable> {
        let backends: SockHash<MapData, u64> = take(ebpf, BACKENDS)?;
        let bypass: &mut SkMsg = program(ebpf, BYPASS)?;
        bypass.load().map_err(refused)?;
        bypass.attach(backends.fd()).map_err(refused)?;
        let bypass_id = bypass.info().map_err(refused)?.id();
        let bypass = bypass.fd().map_err(refused)?.as_fd().try_clone_to_owned();
        let (program, seize) = load_finder(ebpf, btf)?;
        let held = backends.fd().as_fd().try_clone_to_owned();
        let held = held.and_then(|held| Ok((held, bypass?)));
        let (held_backends, bypass) =
            held.map_err(|error| Unavailable::explain("a descriptor cannot be duplicated", &error))?;
        Ok(Self {
            program: Arc::new(program),
            backends: Arc::new(held_backends),
            bypass: Arc::new(bypass),
            bypass_id,
            captures: Arc::new(Mutex::new(Captures::load(ebpf, backends, seize)?)),
        })
    }

    /// Attaches `bypass` again, if somebody else has taken it away: some, whether that works. Without it captured servers send by
    /// the loopback.
    pub(super) fn stay_attached(&self) -> Option<io::Result<()>> {
        let attached = sys::attached_to_map(&self.backends, sys::MESSAGES);
        let is_there = attached.map_or(true, |id| id == Some(self.bypass_id));
        (!is_there).then(|| sys::attach_to_map(&self.backends, &self.bypass, sys::MESSAGES))
    }

    /// Whether the socket at the other end is one of this host and network namespace.
    pub(crate) fn look(&self, ends: &FourTuple) -> io::Result<Answer> {
        self.run(&ends.request(Task::Look))
    }

    /// Captures the socket at the other end of ours, whose direction to the client is at `place`; it had sent `before` bytes
    /// when that began.
    pub(crate) fn capture(
        &self,
        ends: &FourTuple,
        place: Place,
        client: u64,
        before: u64,
    ) -> io::Result<Answer> {
        let (upstream, slot) = (place.cookie, u64::from(place.slot));
        let mut captures = self.captures();
        let request = Request { upstream, client, slot, before, ..ends.request(Task::Capture) };
        let mut answer = self.run(&request);
        if let (Ok(Answer::Yes), Some(seize)) = (&answer, &captures.seize) {
            let seized = sys::run_iterator(seize);
            let settled = self.run(&ends.request(Task::Settle));
            answer = seized.and(settled);
        }
        if matches!(answer, Ok(Answer::Refused) | Err(_)) {
            captures.release(upstream)?;
        }
        answer
    }

    /// Lets it go. What a call under way has taken already still goes where it was to go.
    pub(crate) fn release(&self, place: Place) -> io::Result<()> {
        self.captures().release(place.cookie)
    }

    /// A panic while the lock was held cannot have left a map half changed: each change is one system call.
    fn captures(&self) -> std::sync::MutexGuard<'_, Captures> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, request: &Request) -> io::Result<Answer> {
        sys::run_program(&self.program, &request.to_bytes()).map(Answer::from_code)
    }
}
