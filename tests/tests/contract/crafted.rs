//! Segments whose sequence numbers count what is no byte to read, or count a byte again: data in a SYN, an end that comes again with
//! data, probes that bring a byte. One peer is played segment by segment, the other one is the kernel's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::carrier::{Carrier, Place};
use harness::daemon::{Access, Config, Daemon};
use harness::deadline::{PATIENCE, wait_for};
use harness::guard::frame::FIN;
use harness::netns::{BACKEND_IPV4, CLIENT_IPV4, Namespace, Topology, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish};
use harness::site::{POLLING_PORT, RawSite, SHARED_PORT, WEB_PORT, config_of};
use harness::wire::{CraftedHost, CraftedPeer};

/// The addresses of the played peers.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 2);

/// What some stacks send as the byte of a probe.
const GARBAGE: &[u8] = &[0xee];

/// The time of a look whether the daemon has handed the connection over, in which the peer answers.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of a segment.
const SEGMENT: usize = 1400;

/// A window that is closed is asked so many times before it opens.
const QUESTIONS: usize = 1;

/// The bytes of a stream from `place` on.
fn stream(place: u32, length: u32) -> Vec<u8> {
    (place..place + length).map(|place| u8::try_from(place * 7 % 251).unwrap_or(0)).collect()
}

/// A connection through the daemon. Each peer sends the stream of [`stream`].
struct Connection {
    crafted: CraftedPeer,
    other: TcpStream,
    /// What each has sent so far.
    sent: u32,
    answered: u32,
}

impl Connection {
    fn new(crafted: CraftedPeer, other: TcpStream) -> Self {
        Self { crafted, other, sent: 0, answered: 0 }
    }

    /// The other peer reads the next bytes, at their place.
    fn expect(&mut self, length: u32) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(length)?];
        self.other
            .read_exact(&mut bytes)
            .with_context(|| format!("reading {length} bytes at {}", self.sent))?;
        ensure!(bytes == stream(self.sent, length), "other bytes came at {}", self.sent);
        self.sent += length;
        Ok(())
    }

    /// Ordinary bytes in both directions.
    fn round_trip(&mut self) -> Result<()> {
        self.crafted.deliver(self.sent, 0, &stream(self.sent, 100))?;
        self.expect(100)?;
        self.answer(100)?;
        self.expect_answer()
    }

    fn answer(&mut self, length: u32) -> Result<()> {
        self.other.write_all(&stream(self.answered, length))?;
        self.answered += length;
        Ok(())
    }

    fn expect_answer(&mut self) -> Result<()> {
        let all = stream(0, self.answered);
        self.crafted.listen_until("an answer", PATIENCE, |peer| peer.received.len() >= all.len())?;
        ensure!(self.crafted.received == all, "other bytes came in answer");
        Ok(())
    }

    /// Probes of one that wants to know whether the other end is still there: at the last byte that is acknowledged, with and without
    /// a byte. Each is answered, by whoever.
    fn keepalive(&mut self) -> Result<()> {
        for probe in [b"", GARBAGE, GARBAGE] {
            let heard = self.crafted.heard;
            let place = i64::from(self.crafted.acked) - 1;
            wait_for("an answer to a probe", PATIENCE, || {
                self.crafted.send(place, 0, probe).ok()?;
                self.crafted.listen_until("it", LOOK, |peer| peer.heard > heard).ok()
            })?;
        }
        Ok(())
    }

    /// Bytes that are acknowledged come again with others, and some come before those that are missing.
    fn overlaps(&mut self) -> Result<()> {
        let at = self.sent;
        self.crafted.deliver(at, 0, &stream(at, 10))?;
        self.crafted.deliver(at + 5, 0, &stream(at + 5, 15))?;
        self.crafted.send((at + 30).into(), 0, &stream(at + 30, 10))?;
        self.crafted.send((at + 25).into(), 0, &stream(at + 25, 10))?;
        self.crafted.deliver(at + 20, 0, &stream(at + 20, 10))?;
        self.crafted.deliver(at, 0, &stream(at, 40))?;
        self.expect(40)
    }

    /// Sends until the window of the other end is closed: it reads nothing.
    fn fill(&mut self) -> Result<()> {
        let peer = &mut self.crafted;
        wait_for("a window that is closed", PATIENCE, || {
            let (begin, window) = (peer.acked, u32::from(peer.other_window));
            for place in (begin..begin + window).step_by(SEGMENT) {
                let length = u32::try_from(SEGMENT).ok()?.min(begin + window - place);
                peer.send(place.into(), 0, &stream(place, length)).ok()?;
            }
            // What finds no room is sent again.
            drop(peer.listen_until("it", LOOK, |peer| peer.acked >= begin + window));
            (peer.other_window == 0).then_some(())
        })
        .with_context(|| format!("{} are acknowledged, and the window is {}", peer.acked, peer.other_window))
    }

    /// The other peer reads nothing until the window is closed. Then this one asks with one byte that is new.
    fn probes_with_a_new_byte(&mut self) -> Result<()> {
        self.fill()?;
        for _ in 0..4 {
            let (place, heard) = (self.crafted.acked, self.crafted.heard);
            self.crafted.send(place.into(), 0, &stream(place, 1))?;
            self.crafted.listen_until("an answer", PATIENCE, |peer| peer.heard > heard)?;
        }
        self.expect(self.crafted.acked - self.sent)?;
        self.crafted.deliver(self.sent, 0, &stream(self.sent, 1000))?;
        self.expect(1000)
    }

    /// This peer closes its window, and opens it: once it says so, once the answer to a probe says so.
    fn closed_window(&mut self) -> Result<()> {
        for says in [true, false] {
            self.crafted.window = 0;
            self.crafted.send(self.crafted.acked.into(), 0, b"")?;
            let asked = self.crafted.empty + QUESTIONS;
            self.answer(1000)?;
            self.crafted.listen_until("probes of the window", PATIENCE, |peer| peer.empty >= asked)?;
            self.crafted.window = u16::MAX;
            if says {
                self.crafted.send(self.crafted.acked.into(), 0, b"")?;
            }
            self.expect_answer()?;
        }
        Ok(())
    }

    /// What costs no time.
    fn briefly(&mut self) -> Result<()> {
        self.round_trip().context("round trip")?;
        self.keepalive().context("keepalive")?;
        self.overlaps().context("overlaps")
    }

    fn all(&mut self) -> Result<()> {
        self.briefly()?;
        self.closed_window().context("closed window")?;
        self.probes_with_a_new_byte().context("probes with a new byte")?;
        self.round_trip().context("round trip at the end")
    }

    fn wait_until_carried(&mut self, carrier: &Carrier, daemon: &Daemon) -> Result<()> {
        if !carrier.begins_as_copy() || carrier.place == Place::Edge {
            return Ok(());
        }
        let peer = &mut self.crafted;
        let carried = wait_for("the connection to be handed over", PATIENCE, || {
            drop(peer.listen_until("nothing", LOOK, |_| false));
            let flows = daemon.flows().ok()?;
            flows.iter().any(|flow| flow.datapath.as_deref() == Some(carrier.name)).then_some(())
        });
        carried.with_context(|| format!("{:?}", daemon.flows()))
    }

    /// The played peer ends with 20 bytes as `how` sends them, and is told so at once; then come probes at the place of its end, its
    /// end again, and what would stand behind it. Then the other peer ends.
    fn end(&mut self, how: fn(&mut CraftedPeer, u32) -> Result<()>) -> Result<()> {
        let at = self.sent;
        how(&mut self.crafted, at)?;
        let end = at + 21;
        self.crafted.listen_until("an acknowledged end", PATIENCE, |peer| peer.acked == end)?;
        self.expect(20)?;
        expect_ending(&mut self.other, Ending::Eof)?;
        self.crafted.send(i64::from(end) - 1, 0, GARBAGE)?;
        self.crafted.send(i64::from(end) - 1, 0, b"")?;
        self.crafted.send(i64::from(end) - 1, FIN, b"")?;
        self.crafted.send(i64::from(at), FIN, &stream(at, 20))?;
        self.crafted.send(i64::from(at) + 10, FIN, &stream(at + 10, 10))?;
        self.crafted.send(end.into(), 0, GARBAGE)?;
        self.answer(50)?;
        self.expect_answer()?;
        finish(&self.other)?;
        self.crafted.listen_until("the other end", PATIENCE, |peer| peer.ended)?;
        ensure!(!self.crafted.reset && self.crafted.received == stream(0, self.answered));
        Ok(())
    }

    /// Its record says what was read, and that it ended in order.
    fn check_record(&self, daemon: &Daemon, client: SocketAddr, wanted: (u32, u32)) -> Result<Access> {
        let record = daemon.wait_for_access(client)?;
        let wanted = (wanted.0.into(), wanted.1.into(), "eof");
        ensure!(
            (record.bytes_in, record.bytes_out, record.reason.as_str()) == wanted,
            "{record:?}, not {wanted:?}"
        );
        Ok(record)
    }
}

/// The end comes with data of which a part is acknowledged already.
fn with_known_bytes(peer: &mut CraftedPeer, at: u32) -> Result<()> {
    peer.deliver(at, 0, &stream(at, 10))?;
    peer.deliver(at + 5, FIN, &stream(at + 5, 15))
}

/// The end comes before the bytes that it follows, and all again in one piece.
fn before_its_bytes(peer: &mut CraftedPeer, at: u32) -> Result<()> {
    peer.send((at + 15).into(), FIN, &stream(at + 15, 5))?;
    peer.send((at + 20).into(), FIN, b"")?;
    peer.deliver(at, 0, &stream(at, 15))?;
    peer.deliver(at, FIN, &stream(at, 20))
}

/// How the played peer ends.
const ENDS: [fn(&mut CraftedPeer, u32) -> Result<()>; 2] = [before_its_bytes, with_known_bytes];

/// A network whose sockets hold little, so that a window is soon closed.
fn small_network() -> Result<Topology> {
    let net = Topology::create()?;
    for namespace in [&net.edge, &net.backend, &net.client] {
        set(namespace, "tcp_rmem", "4096 131072 262144")?;
        set(namespace, "tcp_wmem", "4096 16384 262144")?;
    }
    Ok(net)
}

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    namespace.enter(|| Ok(fs::write(format!("/proc/sys/net/ipv4/{name}"), value)?))
}

/// A site, and a client behind its clients.
fn site_of(carrier: &Carrier, net: Topology) -> Result<(RawSite, CraftedHost)> {
    let bind = |port| RawListener::bind(carrier.place.of(&net), carrier.place.address(port));
    let (polling, web) = (bind(POLLING_PORT)?, bind(WEB_PORT)?);
    let daemon = carrier.launch()?.start(&net.edge, &config_of(carrier))?;
    let host = CraftedHost::behind(&net.client, CLIENT_IPV4, &net.edge, CLIENT)?;
    Ok((RawSite { daemon, polling, web, net }, host))
}

#[test]
fn law_1_segments_of_a_client_that_count_more_or_less_than_bytes() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let (site, host) = site_of(&carrier, small_network()?)?;
    for (end, port) in ENDS.into_iter().zip(2000..) {
        // The kernel does not take the data of a SYN; they come again.
        let crafted = host.connect(port, edge(POLLING_PORT), &stream(0, 100))?;
        ensure!(crafted.acked == 0, "{} bytes of the SYN were acknowledged", crafted.acked);
        crafted.send(0, 0, b"")?;
        let mut connection = Connection::new(crafted, site.polling.accept()?);
        connection.briefly().context("before it was handed over")?;
        connection.wait_until_carried(&carrier, &site.daemon)?;
        connection.all()?;
        connection.end(end)?;
        let (client, bytes) = (connection.crafted.address(), (connection.sent, connection.answered));
        let record = connection.check_record(&site.daemon, client, bytes)?;
        ensure!(record.datapath.as_deref() == Some(carrier.name), "{record:?}");
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// The daemon does not ask for TCP Fast Open. A host can be set up so that all listeners take the data of a SYN: a connection is accepted then
/// before its handshake is over.
#[test]
fn law_1_data_in_a_syn_that_the_kernel_takes() -> Result<()> {
    /// For servers too, without cookies, and for listeners that do not ask for it.
    const EVERYWHERE: &str = "1543";
    let carrier = Carrier::of_environment()?;
    let net = small_network()?;
    set(&net.edge, "tcp_fastopen", EVERYWHERE)?;
    let (site, host) = site_of(&carrier, net)?;
    for (is_acknowledged, port) in [(false, 2000), (true, 2001)] {
        let crafted = host.connect(port, edge(POLLING_PORT), &stream(0, 100))?;
        ensure!(crafted.acked == 100, "{} bytes of the SYN were acknowledged", crafted.acked);
        if is_acknowledged {
            crafted.send(100, 0, b"")?;
        }
        let mut connection = Connection::new(crafted, site.polling.accept()?);
        connection.expect(100)?;
        connection.answer(100)?;
        connection.expect_answer()?;
        connection.crafted.deliver(0, 0, &stream(0, 100))?;
        connection.briefly()?;
        connection.end(before_its_bytes)?;
        let (client, bytes) = (connection.crafted.address(), (connection.sent, connection.answered));
        connection.check_record(&site.daemon, client, bytes)?;
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn law_1_segments_of_a_server_that_count_more_or_less_than_bytes() -> Result<()> {
    const PORT: u16 = 9443;
    let carrier = Carrier::of_environment()?;
    let net = small_network()?;
    // The client offers no more than the server takes.
    for option in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"] {
        set(&net.client, option, "0")?;
    }
    let host = CraftedHost::behind(&net.backend, BACKEND_IPV4, &net.edge, SERVER)?;
    let config = Config::new()
        .listen_to("all", "[::]:443", "all")
        .upstream("all", SocketAddr::from((SERVER, PORT)))
        .datapath(carrier.datapath);
    let daemon = carrier.launch()?.start(&net.edge, &config)?;
    for end in ENDS {
        let client = net.client.connect(edge(SHARED_PORT))?;
        let address = client.local_addr()?;
        let crafted = host.accept(PORT, &stream(0, 100))?;
        let mut connection = Connection::new(crafted, client);
        connection.briefly().context("before it was handed over")?;
        connection.wait_until_carried(&carrier, &daemon)?;
        connection.all()?;
        connection.end(end)?;
        let record = connection.check_record(&daemon, address, (connection.answered, connection.sent))?;
        // A server that is elsewhere is none for local.
        let is_carried = record.datapath.as_deref() == Some(carrier.name) || carrier.place == Place::Edge;
        ensure!(is_carried, "{record:?}");
    }
    daemon.wait_for_idle()?;
    daemon.stop()
}
