//! Servers on the daemon's host: what they send goes past the loopback connection, and they do not notice.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use harness::MIB;
use harness::daemon::{Access, Config, Daemon, Datapath};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::keyed::{self, Keyed};
use harness::netns::{Topology, edge};
use harness::peers::here::{self, Kind, REQUEST};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, reset, transfer};

/// Small enough to fit into any buffer on the way.
const PART: u64 = 64 * 1024;
const PORT: u16 = 443;
const SERVER: &str = "127.0.0.1:9000";

/// A daemon whose one upstream listens on the daemon's host.
struct Here {
    daemon: Daemon,
    server: RawListener,
    net: Topology,
}

impl Here {
    fn start(server: &str, datapath: Datapath) -> Result<Self> {
        let net = Topology::create()?;
        let listener = RawListener::bind(&net.edge, server.parse()?)?;
        let config = Config::new().listen_to("tls", "[::]:443", "here").upstream("here", server);
        let daemon = Daemon::start(&net.edge, &config.datapath(datapath))?;
        Ok(Self { daemon, server: listener, net })
    }

    /// The client's end and the server's end of a flow.
    fn flow(&self) -> Result<(TcpStream, TcpStream)> {
        let client = self.net.client.connect(edge(PORT))?;
        Ok((client, self.server.accept()?))
    }

    fn bypassed(&self) -> Result<u64> {
        Ok(self.daemon.status()?.kernel.context("the status has no kernel counters")?.bypassed_bytes)
    }

    /// Downloads until bytes go past the loopback: when the server is captured is the daemon's to choose.
    fn download_past(&self, server: &mut TcpStream, client: &mut TcpStream) -> Result<()> {
        let before = self.bypassed()?;
        let begun = Instant::now();
        while self.bypassed()? == before {
            if begun.elapsed() > PATIENCE {
                bail!("no byte went past the loopback in {PATIENCE:?}");
            }
            download(server, client, MIB)?;
        }
        Ok(())
    }

    fn access(&self, client: SocketAddr, datapath: &str, reason: &str) -> Result<Access> {
        let access = self.daemon.wait_for_access(client)?;
        assert_eq!(
            (access.datapath.as_deref(), access.reason.as_str()),
            (Some(datapath), reason),
            "{access:?}"
        );
        Ok(access)
    }
}

/// Asks a server of this kind for all those bytes, `pace` before each answer is read. Returns how many went past the loopback.
fn asks(here: &Here, kind: Kind, sizes: &[u64], pace: Duration) -> Result<u64> {
    let (mut client, server) = here.flow()?;
    let address = client.local_addr()?;
    let before = here.bypassed()?;
    let all: u64 = sizes.iter().sum();
    thread::scope(|scope| {
        let serving = scope.spawn(|| here::serve(kind, &server, 7));
        let mut data = Keyed::new(7);
        for &bytes in sizes {
            client.write_all(&bytes.to_be_bytes())?;
            dawdle(pace);
            keyed::receive_on(&mut client, &mut data, bytes).with_context(|| format!("{kind:?}"))?;
        }
        finish(&client)?;
        expect_ending(&mut client, Ending::Eof)?;
        serving.join().map_err(|_| anyhow!("the server panicked"))?.with_context(|| format!("{kind:?}"))
    })?;
    drop((client, server));
    let access = here.access(address, "local", "eof")?;
    assert_eq!((access.bytes_in, access.bytes_out), ((sizes.len() * REQUEST) as u64, all), "{access:?}");
    Ok(here.bypassed()? - before)
}

/// A download whose client has read each part before the next one is sent: nothing of it is on its way when the server is
/// captured.
fn download(server: &mut TcpStream, client: &mut TcpStream, bytes: u64) -> Result<()> {
    for part in 0..bytes / PART {
        transfer(server, client, part, PART)?;
    }
    Ok(())
}

#[test]
fn every_kind_of_server_is_served_as_without_us() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    let mut sizes = vec![1, 32 * MIB, 0, 777, 16 * MIB, MIB, 3, 32 * MIB, 100];
    // The server has nothing on its way when it is asked, so that some of these meet it captured.
    sizes.extend([PART; 160]);
    for kind in Kind::ALL {
        let bypassed = asks(&here, kind, &sizes, Duration::ZERO)?;
        assert!(bypassed > 0, "{kind:?}: no byte went past the loopback");
    }
    here.daemon.stop()
}

#[test]
fn a_client_that_does_not_read_for_a_while_gets_every_byte() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    for kind in [Kind::EdgeTriggered, Kind::LevelTriggered, Kind::Blocking] {
        asks(&here, kind, &[8 * MIB, 64 * MIB, 1, 64 * MIB], Duration::from_millis(700))?;
    }
    here.daemon.stop()
}

#[test]
fn hundreds_of_flows_lose_nothing() -> Result<()> {
    const FLOWS: u64 = 240;
    let here = Here::start(SERVER, Datapath::Local)?;
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..FLOWS {
            let (mut client, server) = here.flow()?;
            let kind = Kind::ALL[usize::try_from(number)? % Kind::ALL.len()];
            scope.spawn(move || here::serve(kind, &server, number));
            clients.push(scope.spawn(move || -> Result<()> {
                let mut data = Keyed::new(number);
                for step in 0..6 {
                    let bytes = (number * 7919 + step * 104_729) % (MIB / 2) * (1 + step % 3);
                    here::ask(&mut client, &mut data, bytes)?;
                }
                finish(&client)?;
                expect_ending(&mut client, Ending::Eof)
            }));
        }
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        anyhow::Ok(())
    })?;
    here.daemon.wait_for_idle()?;
    let metrics = here.daemon.metrics()?;
    let labels = [("datapath", "local"), ("direction", "in")];
    assert_eq!(metrics.sum("snisplice_bytes_total", &labels), (FLOWS * 6 * REQUEST as u64) as f64);
    assert!(here.bypassed()? > 0);
    here.daemon.stop()
}

/// It closes right after its last write, and the client still gets that.
#[test]
fn a_server_that_speaks_first_and_closes_at_once_is_heard_to_the_end() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    for bytes in [1, 100_000, 2 * MIB, 48 * MIB + 1] {
        let (mut client, mut server) = here.flow()?;
        let address = client.local_addr()?;
        let sender = thread::spawn(move || keyed::send(&mut server, 3, bytes));
        keyed::receive(&mut client, 3, bytes)?;
        expect_ending(&mut client, Ending::Eof)?;
        sender.join().expect("the sender panicked")?;
        drop(client);
        assert_eq!(here.access(address, "local", "eof")?.bytes_out, bytes);
    }
    here.daemon.stop()
}

#[test]
fn a_reset_passes_either_way() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    for by_server in [true, false] {
        let (mut client, mut server) = here.flow()?;
        let address = client.local_addr()?;
        download(&mut server, &mut client, 2 * MIB)?;
        let (resets, mut other) = if by_server { (server, client) } else { (client, server) };
        // A thread that waits in a read is told to try again, as the self-test says; a server that waits for readiness is not.
        other.set_nonblocking(true)?;
        reset(resets)?;
        let answer = wait_for("the reset", PATIENCE, || match other.read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            answer => Some(answer),
        })?;
        assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        here.access(address, "local", if by_server { "upstream_reset" } else { "client_reset" })?;
    }
    here.daemon.stop()
}

/// A thread that waits in a read while another one waits in a write may be told to try again for nothing: that is what the
/// self-test finds, and why auto leaves such servers alone.
struct TriesAgain<'a>(&'a TcpStream);

impl Read for TriesAgain<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match (&*self.0).read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {}
                answer => return answer,
            }
        }
    }
}

/// Upload and download at the same time: the server is captured and let go again and again.
#[test]
fn both_directions_at_once_lose_nothing() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    let (client, server) = here.flow()?;
    let address = client.local_addr()?;
    let copies = |stream: &TcpStream| stream.try_clone();
    let (up_to, mut up_from) = (copies(&server)?, copies(&client)?);
    let (mut down_to, mut down_from) = (copies(&client)?, copies(&server)?);
    thread::scope(|scope| {
        let up = scope.spawn(move || -> Result<()> {
            for part in 0..40 {
                keyed::send(&mut up_from, part, 1000 + part * 4096)?;
                keyed::receive(&mut TriesAgain(&up_to), part, 1000 + part * 4096)?;
                dawdle(Duration::from_millis(3));
            }
            Ok(())
        });
        transfer(&mut down_from, &mut down_to, 99, 96 * MIB)?;
        up.join().map_err(|_| anyhow!("the upload panicked"))?
    })?;
    finish(&client)?;
    finish(&server)?;
    drop((client, server));
    assert_eq!(here.access(address, "local", "eof")?.bytes_out, 96 * MIB);
    here.daemon.stop()
}

#[test]
fn the_server_may_have_any_address_of_the_host_and_may_restart() -> Result<()> {
    for address in ["[::1]:9000", "10.2.0.1:9000", "[fd00:2::1]:9000", "127.0.0.1:9000"] {
        let mut here = Here::start(address, Datapath::Local)?;
        for _ in 0..2 {
            let (mut client, mut server) = here.flow()?;
            let from = client.local_addr()?;
            here.download_past(&mut server, &mut client).context(address)?;
            drop(server);
            expect_ending(&mut client, Ending::Eof)?;
            drop(client);
            here.access(from, "local", "eof")?;
            let Here { daemon, server, net } = here;
            server.stop()?;
            let server = RawListener::bind(&net.edge, address.parse()?)?;
            here = Here { daemon, server, net };
        }
        here.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn connections_of_others_to_the_same_server_are_left_alone() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    let (mut client, mut server) = here.flow()?;
    here.download_past(&mut server, &mut client)?;
    let before = here.bypassed()?;
    let mut foreign = here.net.edge.connect(SERVER.parse()?)?;
    let mut accepted = here.server.accept()?;
    transfer(&mut accepted, &mut foreign, 2, 16 * MIB)?;
    transfer(&mut foreign, &mut accepted, 3, MIB)?;
    assert_eq!(here.bypassed()?, before);
    drop((client, server));
    here.daemon.stop()
}

/// The same addresses and ports in another network namespace are another connection.
#[test]
fn a_server_of_another_namespace_is_not_taken_for_ours() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Local)?;
    let (mut client, mut server) = here.flow()?;
    let name = client.local_addr()?.to_string();
    let ours =
        here.daemon.wait_for_flow("the flow", |flow| flow.client == name && flow.upstream_local.is_some())?;
    let near: SocketAddr = ours.upstream_local.context("no local address")?.parse()?;

    let twin = RawListener::bind(&here.net.backend, SERVER.parse()?)?;
    let mut twin_client = here.net.backend.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&near.into())?;
        socket.connect(&SERVER.parse::<SocketAddr>()?.into())?;
        Ok(TcpStream::from(socket))
    })?;
    let mut twin_server = twin.accept()?;
    for round in 0..4 {
        here.download_past(&mut server, &mut client)?;
        download(&mut twin_server, &mut twin_client, MIB)?;
        transfer(&mut server, &mut client, 10 + round, 8 * MIB)?;
        transfer(&mut twin_server, &mut twin_client, 20 + round, 8 * MIB)?;
    }
    drop((client, server));
    here.daemon.stop()
}

#[test]
fn a_server_on_another_host_is_spliced_by_sockmap() -> Result<()> {
    use harness::site::{RawSite, config};
    let site = RawSite::start(&config().datapath(Datapath::Local))?;
    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?;
    transfer(&mut server, &mut client, 1, 8 * MIB)?;
    drop(server);
    expect_ending(&mut client, Ending::Eof)?;
    drop(client);
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!(access.datapath.as_deref(), Some("sockmap"), "{access:?}");
    let labels = [("from", "local"), ("reason", "not_captured")];
    assert!(site.daemon.metrics()?.sum("snisplice_datapath_fallbacks_total", &labels) >= 1.0);
    site.daemon.stop()
}

/// Where some servers would notice, auto leaves it to those who name it.
#[test]
fn auto_takes_it_only_where_no_server_would_notice() -> Result<()> {
    let here = Here::start(SERVER, Datapath::Auto)?;
    let local = here.daemon.status()?.datapaths.local;
    assert!(local.available, "{local:?}");
    let expected = if local.reason.is_none() { "local" } else { "sockmap" };
    let (mut client, mut server) = here.flow()?;
    let address = client.local_addr()?;
    let name = address.to_string();
    here.daemon.wait_for_flow("the hand-over", |flow| {
        flow.client == name && flow.datapath.as_deref() == Some(expected)
    })?;
    if local.reason.is_none() {
        here.download_past(&mut server, &mut client)?;
    } else {
        download(&mut server, &mut client, 2 * MIB)?;
        assert_eq!(here.bypassed()?, 0);
    }
    drop(server);
    expect_ending(&mut client, Ending::Eof)?;
    drop(client);
    here.access(address, expected, "eof")?;
    here.daemon.stop()
}
