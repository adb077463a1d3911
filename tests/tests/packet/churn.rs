//! Hand-overs while bytes are on their way in both directions: many flows, each checked byte by byte by its place in its stream,
//! over bad networks. Between which ends is said in `matrix.rs`.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::deadline::dawdle;
use harness::impair::{Badness, Impaired};
use harness::keyed::{self, Keyed, read_some};
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, CLIENT_IPV4, EDGE_IPV4, EDGE_IPV6, Namespace, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::pins::Pins;

use crate::counted;

/// Flows of a case, and how many at a time.
const FLOWS: u64 = 128;
const AT_A_TIME: u64 = 16;

const SERVER_PORT: u16 = 9443;

/// Sizes of what is sent in turn, up and down: from a byte to more than any window at first.
const SIZES: [u64; 8] = [1, 700, 30_000, 3, 200_000, 1449, 70_000, 12];

/// What a flow's ends do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// They read what comes.
    Even,
    /// They stop reading for a while, until their windows are closed, and go on.
    Slow,
}

/// Where the ends are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On two networks.
    Ipv4,
    /// The same by IPv6.
    Ipv6,
    /// On one: both connections go by one interface.
    OneInterface,
}

impl Way {
    fn places(self) -> (SocketAddr, SocketAddr) {
        match self {
            Self::Ipv4 => ((EDGE_IPV4, 443).into(), (BACKEND_IPV4, SERVER_PORT).into()),
            Self::Ipv6 => ((EDGE_IPV6, 443).into(), (BACKEND_IPV6, SERVER_PORT).into()),
            Self::OneInterface => ((EDGE_IPV4, 443).into(), (CLIENT_IPV4, SERVER_PORT).into()),
        }
    }

    fn servers(self, net: &Topology) -> &Namespace {
        if self == Self::OneInterface { &net.client } else { &net.backend }
    }
}

/// Many flows of one kind.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) way: Way,
    pub(crate) badness: Badness,
    pub(crate) pace: Pace,
    /// How old the flows are when they are to leave their sockets.
    pub(crate) after: &'static str,
}

impl Default for Case {
    fn default() -> Self {
        Self { way: Way::Ipv4, badness: Badness::LITTLE, pace: Pace::Even, after: "0s" }
    }
}

/// The two ends of a flow.
type Flow = (TcpStream, TcpStream);

struct Ground {
    net: Topology,
    listener: RawListener,
    entrance: SocketAddr,
    daemon: Daemon,
    _pins: Pins,
}

impl Ground {
    fn prepare(case: Case, prepare: impl FnOnce(&Topology) -> Result<()>) -> Result<Self> {
        let net = Topology::create()?;
        prepare(&net)?;
        let (entrance, server) = case.way.places();
        let listener = RawListener::bind(case.way.servers(&net), server)?;
        let pins = Pins::create()?;
        let config = Config::new()
            .listen_to("all", "[::]:443", "all")
            .upstream("all", server)
            .datapath(Datapath::Packet)
            .packet(&pins, case.after);
        let daemon = Launch::new()?.start(&net.edge, &config)?;
        Ok(Self { net, listener, entrance, daemon, _pins: pins })
    }

    fn flow(&self) -> Result<Flow> {
        Ok((self.net.client.connect(self.entrance)?, self.listener.accept()?))
    }
}

/// Plays many flows, after `prepare` has made the network what it is to be.
pub(crate) fn churn(case: Case, prepare: impl FnOnce(&Topology) -> Result<()>) -> Result<()> {
    let ground = Ground::prepare(case, prepare)?;
    let bad = Impaired::everywhere(&ground.net, case.badness)?;
    let mut failures = Vec::new();
    for batch in 0..FLOWS / AT_A_TIME {
        // One after the other: which connection is whose is known by their order only.
        let numbers = batch * AT_A_TIME..(batch + 1) * AT_A_TIME;
        let flows = numbers.map(|number| Ok((number, ground.flow()?))).collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let playing: Vec<_> = flows
                .into_iter()
                .map(|(number, flow)| scope.spawn(move || play(flow, number, case.pace)))
                .collect();
            failures.extend(playing.into_iter().filter_map(|one| match one.join() {
                Ok(result) => result.err(),
                Err(_) => Some(anyhow!("a flow panicked")),
            }));
        });
    }
    if let Some(first) = failures.first() {
        bail!("{} of {FLOWS} flows, such as {first:#}", failures.len());
    }
    let done = bad.iter().map(Impaired::done).collect::<Result<Vec<_>>>()?;
    ground.daemon.wait_for_idle()?;
    let gone =
        ground.daemon.access().iter().filter(|record| record.datapath.as_deref() == Some("packet")).count();
    println!("{gone} of {FLOWS} flows left their sockets; {:?}; network: {done:?}", counted(&ground.daemon)?);
    ensure!(gone as u64 * 2 > FLOWS, "only {gone} of {FLOWS} flows left their sockets");
    ensure!(case.badness.lost == 0 || done.iter().any(|done| done[0] > 0), "no packet was lost: {done:?}");
    ground.daemon.stop()
}

/// One flow: both directions at once, in rounds, so that it leaves its sockets in one of them.
fn play((client, server): Flow, number: u64, pace: Pace) -> Result<()> {
    let from = usize::try_from(number)? % SIZES.len();
    for round in 0..SIZES.len() as u64 {
        let size =
            |by: usize| SIZES.iter().cycle().nth(from + usize::try_from(round).unwrap_or(0) + by).copied();
        let (up, down) = (size(0).unwrap_or(1), size(3).unwrap_or(1));
        let sides = || Ok::<_, anyhow::Error>((client.try_clone()?, server.try_clone()?));
        thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let (mut client, mut server) = sides()?;
                send(&mut client, &mut server, 2 * round, up, pace)
            });
            let (mut client, mut server) = sides()?;
            send(&mut server, &mut client, 2 * round + 1, down, pace)?;
            sent.join().map_err(|_| anyhow!("a sender panicked"))?
        })
        .with_context(|| format!("flow {number}, round {round}"))?;
    }
    let (mut client, mut server) = (client, server);
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)
}

fn send(from: &mut TcpStream, to: &mut TcpStream, stream: u64, bytes: u64, pace: Pace) -> Result<()> {
    if pace == Pace::Even || bytes < 10_000 {
        return transfer(from, to, stream, bytes);
    }
    // More than a closed window and the buffers of its sender hold.
    let bytes = 10 * bytes;
    thread::scope(|scope| {
        let sender = scope.spawn(|| keyed::send(from, stream, bytes));
        receive_slowly(to, stream, bytes)?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")
    })
}

/// Reads nothing for a while, before the first byte and twice on the way.
fn receive_slowly(from: &mut TcpStream, stream: u64, bytes: u64) -> Result<()> {
    const STOP: Duration = Duration::from_millis(40);
    let mut keyed = Keyed::new(stream);
    let mut chunk = vec![0; 32 * 1024];
    let (mut received, mut next_stop) = (0, 0);
    while received < bytes {
        if received >= next_stop {
            dawdle(STOP);
            next_stop += bytes / 3 + 1;
        }
        let room = usize::try_from(bytes - received)?.min(chunk.len());
        let count = read_some(from, chunk.get_mut(..room).unwrap_or_default())?;
        ensure!(count > 0, "the stream ended after {received} of {bytes} bytes");
        keyed.check(chunk.get(..count).unwrap_or_default())?;
        received += count as u64;
    }
    Ok(())
}
