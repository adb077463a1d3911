//! A TCP peer that the test plays segment by segment. Its address is behind a tunnel, so that no kernel answers for it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Forged;
use super::sys::tunnel;
use crate::deadline::{PATIENCE, wait_for};
use crate::guard::frame::{ACK, FIN, PSH, RST, SYN};
use crate::netns::Namespace;

/// The largest packet of IP.
const LARGEST: usize = 1 << 16;

/// How long the peer waits for an acknowledgement before it sends a segment again.
const AGAIN: Duration = Duration::from_millis(300);

/// How long it listens for one packet.
const LISTEN: Duration = Duration::from_millis(10);

/// The option of a SYN that names the largest segment: 1460 bytes.
const LARGEST_SEGMENT: [u8; 4] = [2, 4, 0x05, 0xb4];

/// Where the numbers of each connection begin: its 4096th byte has the number 0.
const FIRST: u32 = u32::MAX - 4096;

/// A host of one address behind a network namespace.
#[derive(Debug)]
pub struct CraftedHost {
    tunnel: File,
    address: IpAddr,
}

impl CraftedHost {
    /// Makes one with an IPv4 address of a network of its own (`10.x.y.2` and `10.x.y.1`), which `edge` reaches by `gateway`, an address
    /// of `namespace`.
    ///
    /// # Errors
    /// When the kernel has no such interfaces.
    pub fn behind(
        namespace: &Namespace,
        gateway: IpAddr,
        edge: &Namespace,
        address: Ipv4Addr,
    ) -> Result<Self> {
        const NAME: &str = "crafted";
        let [a, b, c, _] = address.octets();
        let file = namespace.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            tunnel(NAME).context("making a tunnel")
        })?;
        namespace.ip_batch(&format!("link set dev {NAME} up\naddress add {a}.{b}.{c}.1/24 dev {NAME}\n"))?;
        edge.ip_batch(&format!("route add {a}.{b}.{c}.0/24 via {gateway}\n"))?;
        Ok(Self { tunnel: file, address: address.into() })
    }

    /// Opens a connection from `port`. The SYN brings `early`: the first bytes of the stream.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn connect(&self, port: u16, to: SocketAddr, early: &[u8]) -> Result<CraftedPeer> {
        let mut peer = CraftedPeer::new(self.tunnel.try_clone()?, (self.address, port).into(), to);
        let syn = Forged { payload: early.to_vec(), ..peer.begin(SYN) };
        let answer = wait_for("an answer to the first SYN", PATIENCE * 2, || {
            peer.write(&syn).ok()?;
            wait_for("a SYN", AGAIN, || peer.next_of(to)).ok()
        })?;
        ensure!(answer.flags & (SYN | ACK | RST) == SYN | ACK, "{answer:?} came in answer to a SYN");
        peer.begun(&answer);
        peer.acked = answer.ack.wrapping_sub(FIRST);
        Ok(peer)
    }

    /// Waits for a connection to `port`, and answers with a SYN that brings `early`: the first bytes of the stream.
    ///
    /// # Errors
    /// When none comes.
    pub fn accept(&self, port: u16, early: &[u8]) -> Result<CraftedPeer> {
        let local = (self.address, port).into();
        let mut peer = CraftedPeer::new(self.tunnel.try_clone()?, local, local);
        let syn = wait_for("a SYN", PATIENCE, || peer.next().filter(|(_, syn)| syn.flags & SYN != 0))?;
        peer.remote = syn.0;
        peer.begun(&syn.1);
        let answer = Forged { payload: early.to_vec(), ..peer.begin(SYN | ACK) };
        wait_for("an acknowledgement of the SYN", PATIENCE, || {
            peer.write(&answer).ok()?;
            peer.listen_until("it", AGAIN, |peer| peer.heard > 0).ok()
        })?;
        Ok(peer)
    }
}

/// One connection of such a host. Places in a stream count from 0; the end of the stream has a place of its own, as TCP has it.
#[derive(Debug)]
pub struct CraftedPeer {
    tunnel: File,
    local: SocketAddr,
    remote: SocketAddr,
    /// The number of the first byte that the other end sends.
    other_first: u32,
    /// Up to where it has acknowledged.
    pub acked: u32,
    /// What it has sent.
    pub received: Vec<u8>,
    /// It has ended its stream.
    pub ended: bool,
    /// It has sent a reset.
    pub reset: bool,
    /// What this peer lets it send.
    pub window: u16,
    /// What it lets this peer send.
    pub other_window: u16,
    /// Segments that came.
    pub heard: usize,
    /// Segments that came and brought no byte of their own: acknowledgements and probes.
    pub empty: usize,
}

/// A segment that came.
#[derive(Debug)]
struct Segment {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: Vec<u8>,
}

impl CraftedPeer {
    fn new(tunnel: File, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            tunnel,
            local,
            remote,
            other_first: 0,
            acked: 0,
            received: Vec::new(),
            ended: false,
            reset: false,
            window: u16::MAX,
            other_window: 0,
            heard: 0,
            empty: 0,
        }
    }

    /// The address of this peer.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    fn begin(&self, flags: u8) -> Forged {
        let head = Forged::new(self.local, self.remote, flags, FIRST.wrapping_sub(1));
        let ack = if flags & ACK == 0 { 0 } else { self.other_first };
        Forged { ack, options: LARGEST_SEGMENT.to_vec(), ..head }
    }

    fn begun(&mut self, syn: &Segment) {
        self.other_first = syn.seq.wrapping_add(1);
        self.other_window = syn.window;
    }

    /// The next number that this peer expects.
    fn expected(&self) -> u32 {
        let received = u32::try_from(self.received.len()).unwrap_or(u32::MAX);
        self.other_first.wrapping_add(received).wrapping_add(self.ended.into())
    }

    /// Sends one segment whose first byte is at `place`, which may lie before the stream (-1).
    ///
    /// # Errors
    /// When the tunnel does not take it.
    pub fn send(&self, place: i64, flags: u8, payload: &[u8]) -> Result<()> {
        let seq = u32::try_from((i64::from(FIRST) + place).rem_euclid(1 << 32))?;
        let head = Forged::new(self.local, self.remote, flags | ACK, seq);
        self.write(&Forged { ack: self.expected(), window: self.window, payload: payload.to_vec(), ..head })
    }

    /// Sends a segment again and again until all of it is acknowledged, and answers what comes meanwhile.
    ///
    /// # Errors
    /// When it is not acknowledged within 10 s.
    pub fn deliver(&mut self, place: u32, flags: u8, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?;
        let end = place + length + u32::from(flags & FIN != 0);
        wait_for(&format!("an acknowledgement of place {end}"), PATIENCE, || {
            self.send(place.into(), flags | PSH, payload).ok()?;
            self.listen_until("it", AGAIN, |peer| peer.acked >= end).ok()
        })
        .with_context(|| format!("{} are acknowledged, and the window is {}", self.acked, self.other_window))
    }

    /// Takes and answers what comes until this is so.
    ///
    /// # Errors
    /// When it is not within `limit`.
    #[track_caller]
    pub fn listen_until(&mut self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        wait_for(what, limit, || {
            while !is_so(self) {
                let segment = self.next_of(self.remote)?;
                self.take(&segment).ok()?;
            }
            Some(())
        })
    }

    /// Takes one segment as an end of TCP does, and answers.
    fn take(&mut self, segment: &Segment) -> Result<()> {
        self.heard += 1;
        self.reset |= segment.flags & RST != 0;
        if segment.flags & ACK != 0 {
            let acked = segment.ack.wrapping_sub(FIRST);
            // Behind 2^31 there are acknowledgements of the SYN alone.
            self.acked = if acked < 1 << 31 { self.acked.max(acked) } else { self.acked };
            self.other_window = segment.window;
        }
        let is_end = segment.flags & FIN != 0;
        let known = self.expected().wrapping_sub(segment.seq);
        if segment.payload.is_empty() && !is_end {
            self.empty += 1;
            // Else it is a question whether this peer is still there, or whether its window is open.
            let is_bare = known == 0 || segment.flags & RST != 0;
            return if is_bare { Ok(()) } else { self.send(self.acked.into(), 0, b"") };
        }
        let fresh = segment.payload.get(usize::try_from(known)?..);
        if let Some(fresh) = fresh.filter(|fresh| fresh.len() <= self.window.into() && !self.ended) {
            self.received.extend(fresh);
            self.ended = is_end;
        }
        self.send(self.acked.into(), 0, b"")
    }

    fn write(&self, segment: &Forged) -> Result<()> {
        (&self.tunnel).write_all(&segment.bytes()?).context("writing into the tunnel")
    }

    fn next_of(&self, remote: SocketAddr) -> Option<Segment> {
        self.next().filter(|(from, _)| *from == remote).map(|(_, segment)| segment)
    }

    /// The next segment to this peer, if one comes soon.
    fn next(&self) -> Option<(SocketAddr, Segment)> {
        let limit = Timespec { tv_sec: 0, tv_nsec: LISTEN.subsec_nanos().into() };
        let mut packet = vec![0; LARGEST];
        loop {
            let mut watched = [PollFd::from_borrowed_fd(self.tunnel.as_fd(), PollFlags::IN)];
            if poll(&mut watched, Some(&limit)).ok()? == 0 {
                return None;
            }
            let length = (&self.tunnel).read(&mut packet).ok()?;
            let parsed = parse(packet.get(..length)?);
            if let Some((from, _, segment)) = parsed.filter(|(_, to, _)| *to == self.local) {
                return Some((from, segment));
            }
        }
    }
}

/// The segment in a packet of IPv4, with whence and where to.
fn parse(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, Segment)> {
    let (&version, _) = packet.split_first()?;
    if version >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..at + 4)?.first_chunk::<4>()?));
    let tcp = packet.get(usize::from(version & 0xf) * 4..)?;
    let half = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..at + 2)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..at + 4)?.first_chunk()?));
    let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?.to_vec();
    let segment = Segment { flags: *tcp.get(13)?, seq: word(4)?, ack: word(8)?, window: half(14)?, payload };
    Some(((address(12)?, half(0)?).into(), (address(16)?, half(2)?).into(), segment))
}
