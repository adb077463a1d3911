//! The daemon with its guard, the packets, and the measurements.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::command;
use harness::daemon::{Daemon, Launch};
use harness::guard::frame::{ACK, Frame, SYN};
use harness::guard::random::Numbers;
use harness::netns::{CLIENT_IPV4, CLIENT_IPV6, EDGE_IPV4, EDGE_IPV6, Topology};
use harness::site::config;
use harness::wire::{FrameSocket, Guard, Program, addressed, hardware_address, interface_number};
use harness::workdir::WorkDir;

use crate::figures::{Figures, Kind};
use crate::nft::{self, Nft};

/// Networks on the deny list: half of each family.
const NETWORKS: usize = 100_000;
/// Sources that are banned meanwhile.
const BANS: u8 = 20;

/// Packets for one figure, by the way of measuring.
const RUNS: u32 = 2_000_000;
/// So many parts each: the least counts, as whatever else the machine does only adds to what the program takes.
const PARTS: u32 = 8;
const INJECTED: u32 = 1_000_000;
const WINDOW: Duration = Duration::from_millis(500);

const PASS: u32 = 2;
const DROP: u32 = 1;

pub(crate) struct Scene {
    net: Topology,
    daemon: Daemon,
    guard: Program,
    bare: [Program; 2],
    nft: Option<Nft>,
    networks: Vec<String>,
    edge: [u8; 6],
    _work: WorkDir,
}

/// A packet, what the guard says of it, and its name.
type Case = (&'static str, Frame, u32);

fn denied_v4() -> IpAddr {
    IpAddr::from([198, 51, 100, 77])
}

fn cases() -> [Case; 8] {
    let denied_v6 = IpAddr::from([0x2a10, 7, 7, 0, 0, 0, 0, 9]);
    let v4 = |from, port, flags| Frame::new(from, EDGE_IPV4, port, flags);
    let v6 = |from, port, flags| Frame::new(from, EDGE_IPV6, port, flags);
    [
        ("IPv4, another port: pass", v4(CLIENT_IPV4, 80, ACK), PASS),
        ("IPv6, another port: pass", v6(CLIENT_IPV6, 80, ACK), PASS),
        ("IPv4, a listener's connection: pass", v4(CLIENT_IPV4, 443, ACK), PASS),
        ("IPv6, a listener's connection: pass", v6(CLIENT_IPV6, 443, ACK), PASS),
        ("IPv4, on the deny list: drop", v4(denied_v4(), 443, SYN), DROP),
        ("IPv6, on the deny list: drop", v6(denied_v6, 443, SYN), DROP),
        ("IPv4, bucket of the source empty: drop", v4(CLIENT_IPV4, 443, SYN), DROP),
        ("IPv6, bucket of the source empty: drop", v6(CLIENT_IPV6, 443, SYN), DROP),
    ]
}

/// Networks of IPv4 all over, and of IPv6 as providers have them.
fn networks() -> (Vec<String>, Vec<String>) {
    let mut numbers = Numbers::new(5);
    let v4 = (0..NETWORKS / 2).map(|_| {
        let [a, b, c, d, bits, ..] = numbers.number().to_ne_bytes();
        let bits = 24 + bits % 9;
        // On both sides of the client's own network, so that its packets are looked up as any others are.
        let address = u32::from_be_bytes([a % 180 + 1, b | 2, c, d]) & u32::MAX << (32 - u32::from(bits));
        format!("{}/{bits}", Ipv4Addr::from(address))
    });
    let mut v4: Vec<String> = v4.collect();
    v4.push("198.51.100.0/24".to_owned());
    v4.push("10.1.200.0/24".to_owned());
    let mut numbers = Numbers::new(6);
    let v6 = (0..NETWORKS / 2).map(|_| {
        let [a, b, c, d, e, ..] = numbers.number().to_ne_bytes();
        format!("2a{:02x}:{b:02x}{c:02x}:{d:02x}{e:02x}::/48", a % 16)
    });
    let mut v6: Vec<String> = v6.collect();
    v6.push("2a10:7:7::/48".to_owned());
    v6.push("fd00:2:200::/48".to_owned());
    (v4, v6)
}

impl Scene {
    pub(crate) fn set(snisplice: Option<PathBuf>, rivals: Option<&Path>) -> Result<Self> {
        let net = Topology::create()?;
        let work = WorkDir::create()?;
        let (v4, v6) = networks();
        let file = work.write("deny.txt", [v4.join("\n"), v6.join("\n")].join("\n"))?;
        let lines = format!("deny_file = \"{}\"\nsyn_rate = 1\nsyn_burst = 1\n", file.display());
        let launch = Launch::of(snisplice.map_or_else(command::snisplice, Ok)?).terse().quiet();
        let daemon = launch.start(&net.edge, &config().guard("client", &lines))?;
        Guard::attached(&daemon, "client")?;
        for n in 0..BANS {
            Guard::command(&daemon, &["ban", &format!("203.0.113.{n}")])?.success()?;
        }
        let guard = Guard::of(&daemon)?;
        ensure!(guard.deny_file >= NETWORKS as u64, "{guard:?}");
        let nft = Nft::find(rivals);
        if nft.is_none() {
            eprintln!("NOT MEASURED nftables: there is no nft; install nftables");
        }
        let edge = hardware_address(&net.edge, "client")?;
        let bare = [Program::that_says(PASS)?, Program::that_says(DROP)?];
        Ok(Self { guard: guard.program()?, net, daemon, bare, nft, networks: v4, edge, _work: work })
    }

    pub(crate) fn end(self) -> Result<()> {
        self.daemon.stop()
    }

    /// Measures everything once, with one packet in `fewer`.
    pub(crate) fn measure(&self, fewer: u32, figures: &mut Figures) -> Result<()> {
        self.programs(RUNS / fewer, figures)?;
        self.receive(INJECTED / fewer, figures)?;
        self.wire(WINDOW / fewer, figures)
    }

    fn programs(&self, runs: u32, figures: &mut Figures) -> Result<()> {
        let [pass, drop] = &self.bare;
        let plain = Frame::new(CLIENT_IPV4, EDGE_IPV4, 443, ACK).bytes();
        let mut all =
            vec![("bare XDP_PASS", pass, plain.clone(), None), ("bare XDP_DROP", drop, plain, None)];
        let guarded = |(name, frame, verdict): Case| (name, &self.guard, frame.bytes(), Some(verdict));
        all.extend(cases().map(guarded));
        let mut least = vec![f64::INFINITY; all.len()];
        // In turn, so that a neighbour of the machine who works for a second slows down none of them in all its parts.
        for _ in 0..PARTS {
            for ((name, program, frame, verdict), least) in all.iter().zip(&mut least) {
                // The first takes the token, if it is about that.
                program.run(frame, 3)?;
                let run = program.run(frame, runs / PARTS)?;
                ensure!(verdict.is_none_or(|verdict| run.verdict == verdict), "{name}: {run:?}");
                *least = least.min(f64::from(run.nanoseconds));
            }
        }
        for ((name, ..), least) in all.iter().zip(least) {
            figures.add(Kind::Program, name, least);
        }
        Ok(())
    }

    /// Packets injected at the interface, dropped by the guard, by a bare program, and by nftables behind a program that passes
    /// everything.
    fn receive(&self, count: u32, figures: &mut Figures) -> Result<()> {
        let [pass, drop] = &self.bare;
        let deny = addressed(Frame::new(denied_v4(), EDGE_IPV4, 443, SYN).bytes(), self.edge);
        let syn = addressed(Frame::new(CLIENT_IPV4, EDGE_IPV4, 443, SYN).bytes(), self.edge);
        let inject = |program: &Program, frame: &[u8]| {
            self.net.edge.enter(|| {
                let interface = interface_number("client")?;
                let begun = Instant::now();
                program.receive(frame, interface, count)?;
                Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count))
            })
        };
        figures.add(Kind::Receive, "bare XDP_DROP", inject(drop, &deny)?);
        figures.add(Kind::Receive, "guard, deny list", inject(&self.guard, &deny)?);
        figures.add(Kind::Receive, "guard, bucket", inject(&self.guard, &syn)?);
        let Some(nft) = &self.nft else { return Ok(()) };
        for (name, frame, rules) in [
            ("nftables, deny set", &deny, nft::deny(&self.networks)),
            ("nftables, meter", &syn, nft::meter()),
        ] {
            nft.load(&self.net.edge, &rules)?;
            figures.add(Kind::Receive, name, inject(pass, frame)?);
        }
        nft.load(&self.net.edge, "")
    }

    /// Packets from the other end of the wire, as fast as one thread can send them.
    fn wire(&self, window: Duration, figures: &mut Figures) -> Result<()> {
        let deny = addressed(Frame::new(denied_v4(), EDGE_IPV4, 443, SYN).bytes(), self.edge);
        let before = Guard::of(&self.daemon)?.count("drop", "denied");
        let (sent, rate) = self.send(&deny, window)?;
        let dropped = Guard::of(&self.daemon)?.count("drop", "denied") - before;
        ensure!(dropped * 100 >= sent * 99, "{dropped} of {sent} were dropped");
        figures.add(Kind::Wire, "guard, deny list", rate);
        // An interface that the guard is not attached to.
        let Some(nft) = &self.nft else { return Ok(()) };
        nft.load(&self.net.edge, &nft::deny(&self.networks))?;
        let (_, rate) = self.send_to_backend_side(&deny, window)?;
        figures.add(Kind::Wire, "nftables, deny set", rate);
        nft.load(&self.net.edge, "")
    }

    fn send(&self, frame: &[u8], window: Duration) -> Result<(u64, f64)> {
        self.net.client.enter(|| blast(&FrameSocket::open(interface_number("edge")?)?, frame, window))
    }

    fn send_to_backend_side(&self, frame: &[u8], window: Duration) -> Result<(u64, f64)> {
        let edge = hardware_address(&self.net.edge, "backend")?;
        let frame = addressed(frame.to_vec(), edge);
        self.net.backend.enter(|| blast(&FrameSocket::open(interface_number("edge")?)?, &frame, window))
    }
}

/// Sends copies of a frame for so long; returns how many, and thousands in a second.
fn blast(socket: &FrameSocket, frame: &[u8], window: Duration) -> Result<(u64, f64)> {
    let frames = vec![frame.to_vec(); 256];
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < window {
        sent += socket.send(&frames)? as u64;
    }
    ensure!(sent > 0, "nothing could be sent");
    let rate = sent as f64 / begun.elapsed().as_secs_f64() / 1000.0;
    Ok((sent, rate))
}
