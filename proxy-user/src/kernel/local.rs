//! Servers on this host: their sockets are found and captured, so that what they send can go straight into the client's
//! socket. Nothing is attached to the host or to a cgroup: a program is run by hand, and finds the one socket that is the
//! other end of ours.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{MapData, SockHash};
use aya::programs::{ProgramError, SchedClassifier, SkMsg};
use proxy_common::abi::local::{Answer, BACKENDS, BYPASS, REACH, Request, TUPLE_BYTES, Task};
use proxy_common::abi::sockmap::Place;

use super::Unavailable;
use super::sockmap::{missing, take};
use crate::sys;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_LOCAL"));

/// Finds and captures the sockets of servers.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    program: Arc<OwnedFd>,
    /// The kernel empties a map of sockets whose last descriptor is closed.
    backends: Arc<OwnedFd>,
    bypass: Arc<OwnedFd>,
    /// Id of that program.
    bypass_id: u32,
}

/// The two ends of our connection to a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
}

impl Ends {
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

impl Reach {
    /// Loads the programs, and attaches what is to be attached to the map of captured sockets.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let backends: SockHash<MapData, u64> = take(ebpf, BACKENDS)?;
        let refused = |error: ProgramError| Unavailable::explain("the kernel refuses a BPF program", &error);
        let bypass: &mut SkMsg = program(ebpf, BYPASS)?;
        bypass.load().map_err(refused)?;
        bypass.attach(backends.fd()).map_err(refused)?;
        let bypass_id = bypass.info().map_err(refused)?.id();
        let bypass = bypass.fd().map_err(refused)?.as_fd().try_clone_to_owned();
        let reach: &mut SchedClassifier = program(ebpf, REACH)?;
        reach.load().map_err(refused)?;
        let program = reach.fd().map_err(refused)?.as_fd().try_clone_to_owned();
        let held = backends.fd().as_fd().try_clone_to_owned();
        let held = program.and_then(|program| Ok((program, held?, bypass?)));
        let (program, backends, bypass) =
            held.map_err(|error| Unavailable::explain("a descriptor cannot be duplicated", &error))?;
        Ok(Self {
            program: Arc::new(program),
            backends: Arc::new(backends),
            bypass: Arc::new(bypass),
            bypass_id,
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
    pub(crate) fn look(&self, ends: &Ends) -> io::Result<Answer> {
        self.run(&ends.request(Task::Look))
    }

    /// Captures the socket at the other end of ours, whose direction to the client is at `place`; it had sent `before` bytes
    /// when that began.
    pub(crate) fn capture(&self, ends: &Ends, place: Place, client: u64, before: u64) -> io::Result<Answer> {
        let (upstream, slot) = (place.cookie, u64::from(place.slot));
        self.run(&Request { upstream, client, slot, before, ..ends.request(Task::Capture) })
    }

    /// Lets it go. What a call under way has taken already still goes where it was to go.
    pub(crate) fn release(&self, place: Place) -> io::Result<()> {
        self.run(&Request { upstream: place.cookie, ..empty(Task::Release) }).map(drop)
    }

    fn run(&self, request: &Request) -> io::Result<Answer> {
        sys::run_program(&self.program, &request.to_bytes()).map(Answer::from_code)
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Unavailable>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| Unavailable::explain("the BPF program has another type", &error))
}
