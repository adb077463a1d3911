//! Floods by a host that can send with the addresses of both peers and sees nothing of what they say: it costs them packets at most.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Access, Config, Daemon, Datapath, Launch};
use harness::deadline::dawdle;
use harness::guard::frame::{ACK, FIN, PSH};
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, EDGE_IPV4, EDGE_IPV6, Namespace, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::wire::{Forged, FrameSocket, hardware_address, interface_number};

const SERVER_PORT: u16 = 9443;
/// Of the numbers that a flood tries.
const STEP: u32 = 1 << 26;
const STEPS: u32 = 64;

/// A connection that is offloaded, by IPv4 or IPv6.
struct Scene {
    daemon: Daemon,
    client: TcpStream,
    server: TcpStream,
    net: Topology,
    _listener: RawListener,
}

impl Scene {
    fn start(is_ipv6: bool, config: Config) -> Result<Self> {
        let (backend, edge): (SocketAddr, SocketAddr) = if is_ipv6 {
            ((BACKEND_IPV6, SERVER_PORT).into(), (EDGE_IPV6, 443).into())
        } else {
            ((BACKEND_IPV4, SERVER_PORT).into(), (EDGE_IPV4, 443).into())
        };
        let net = Topology::create()?;
        let listener = RawListener::bind(&net.backend, backend)?;
        let config =
            config.listen_to("one", "[::]:443", "one").upstream("one", backend).datapath(Datapath::Packet);
        let daemon = Launch::new()?.start(&net.edge, &config)?;
        let mut client = net.client.connect(edge)?;
        let mut server = listener.accept()?;
        transfer(&mut client, &mut server, 1, 10)?;
        transfer(&mut server, &mut client, 2, 20)?;
        daemon.wait_for_packets(1)?;
        Ok(Self { daemon, client, server, net, _listener: listener })
    }

    /// Sends at both ends' interfaces what `make` makes of the two addresses, the sequence and the acknowledgement number.
    fn flood(&self, make: impl Fn(SocketAddr, SocketAddr, u32, u32) -> Forged) -> Result<()> {
        let (net, ends) = (&self.net, [&self.client, &self.server]);
        for (at, leads_to, end) in [(&net.client, "client", ends[0]), (&net.backend, "backend", ends[1])] {
            let (from, to) = (end.local_addr()?, end.peer_addr()?);
            let aim = Aim::of(&net.edge, at, leads_to)?;
            let numbers = (0..=STEPS).flat_map(|seq| (0..=STEPS).map(move |ack| (seq, ack)));
            let forged: Result<Vec<_>> = numbers
                .map(|(seq, ack)| {
                    make(from, to, seq.wrapping_mul(STEP), ack.wrapping_mul(STEP)).frame(aim.to)
                })
                .collect();
            aim.socket.send(&forged?)?;
        }
        Ok(())
    }

    fn round_trip(&mut self, number: u64) -> Result<()> {
        transfer(&mut self.client, &mut self.server, number, 100)?;
        transfer(&mut self.server, &mut self.client, number + 1, 200)
    }

    /// Ends it in order, and gives its record.
    fn end(mut self) -> Result<Access> {
        self.round_trip(3)?;
        finish(&self.client)?;
        expect_ending(&mut self.server, Ending::Eof)?;
        finish(&self.server)?;
        expect_ending(&mut self.client, Ending::Eof)?;
        let access = self.daemon.wait_for_access(self.client.local_addr()?)?;
        self.daemon.stop()?;
        Ok(access)
    }
}

/// Where frames are sent: out of a namespace, to the edge.
struct Aim {
    socket: FrameSocket,
    to: [u8; 6],
}

impl Aim {
    fn of(edge: &Namespace, at: &Namespace, leads_to: &str) -> Result<Self> {
        let to = hardware_address(edge, leads_to)?;
        let socket = at.enter(|| Ok(FrameSocket::open(interface_number("edge")?)?))?;
        Ok(Self { socket, to })
    }
}

/// For so long a connection is watched that must not end.
fn watch(scene: &Scene, time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        ensure!(!scene.daemon.flows()?.is_empty(), "the connection was ended: {:?}", scene.daemon.access());
        dawdle(Duration::from_millis(100));
    }
    Ok(())
}

fn blind_ends_at_rest(is_ipv6: bool) -> Result<()> {
    let scene = Scene::start(is_ipv6, Config::new().timeout("half_close", "1s"))?;
    scene.flood(|from, to, seq, ack| Forged { ack, ..Forged::new(from, to, FIN | ACK, seq) })?;
    watch(&scene, Duration::from_millis(1500))?;
    let listed = scene.daemon.flows()?.pop().context("no flow")?;
    ensure!((listed.bytes_in, listed.bytes_out) == (10, 20), "{listed:?}");
    let record = scene.end()?;
    ensure!((record.bytes_in, record.bytes_out, record.reason.as_str()) == (110, 220, "eof"), "{record:?}");
    ensure!(record.side.as_deref() == Some("client"), "{record:?}");
    Ok(())
}

#[test]
fn blind_ends_do_not_end_a_connection_at_rest() -> Result<()> {
    blind_ends_at_rest(false)
}

#[test]
fn nor_do_they_by_ipv6() -> Result<()> {
    blind_ends_at_rest(true)
}

fn blind_data_in_use(is_ipv6: bool) -> Result<()> {
    let mut scene = Scene::start(is_ipv6, Config::new().timeout("keepalive", "3s"))?;
    let mut trips = 0_u64;
    // Data with a step that goes further each time, and an acknowledgement of all numbers: what one is near enough for moves
    // what the next one is compared with.
    for round in 0..3_u32 {
        scene.flood(|from, to, seq, ack| Forged {
            ack: ack.wrapping_add(round),
            payload: vec![7; 700],
            ..Forged::new(from, to, PSH | ACK, seq.wrapping_add(round.wrapping_mul(STEP / 3)))
        })?;
        scene.round_trip(3 + 2 * trips)?;
        trips += 1;
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(4500) {
        scene.round_trip(3 + 2 * trips)?;
        trips += 1;
        dawdle(Duration::from_millis(50));
    }
    let listed = scene.daemon.flows()?.pop().with_context(|| format!("{:?}", scene.daemon.access()))?;
    ensure!(listed.datapath.as_deref() == Some("packet"), "{listed:?}");
    scene.daemon.order("restore", &[listed.id])?;
    let record = scene.end()?;
    let trips = trips + 1;
    ensure!(
        (record.bytes_in, record.bytes_out, record.reason.as_str())
            == (10 + 100 * trips, 20 + 200 * trips, "eof"),
        "{record:?} after {trips} round trips"
    );
    Ok(())
}

#[test]
fn blind_data_does_not_end_a_connection_in_use() -> Result<()> {
    blind_data_in_use(false)
}

#[test]
fn nor_does_it_by_ipv6() -> Result<()> {
    blind_data_in_use(true)
}
