//! One combination of cards and settings: what is done in each, and what is said of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::MIB;
use harness::daemon::{Config, Daemon, Datapath, Launch, Packet};
use harness::deadline::dawdle;
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, Card, EDGE_IPV4, EDGE_IPV6, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};

/// Bytes each way, twice.
const BULK: u64 = 8 * MIB;

/// Bytes of a question and its answer.
const POLL: usize = 64;

/// What a combination came to.
pub(crate) struct Outcome {
    pub(crate) result: String,
    pub(crate) bytes: u64,
    /// Of packets that the programs forwarded.
    pub(crate) mean: u64,
}

/// Plays `how` with the cards of this name, and says a row of the table.
pub(crate) fn play(card: &str, name: &str, how: impl FnOnce(Topology) -> Result<Outcome>) -> Result<()> {
    let title = format!("{card}: {name}");
    let Some(cards) = Card::named(card) else {
        println!("SKIPPED: no such cards: {title}; `cargo xtask test --cards` has them");
        return Ok(());
    };
    let outcome = Topology::of_cards(cards).and_then(how);
    let row = match &outcome {
        Ok(Outcome { result, bytes, mean }) => {
            format!("packet | {result} | {bytes} | {mean}")
        }
        Err(error) => {
            format!("packet | **failed**: {} | - | -", format!("{error:#}").replace(['|', '\n'], " "))
        }
    };
    println!("cards row: {title} | {row}");
    outcome.map(drop)
}

/// What a combination is about, besides its cards.
pub(crate) struct Plan {
    pub(crate) is_ipv6: bool,
    /// The daemon's own settings.
    pub(crate) config: Config,
}

impl Default for Plan {
    fn default() -> Self {
        Self { is_ipv6: false, config: Config::new() }
    }
}

/// The network with a daemon whose connections are offloaded.
pub(crate) struct Scene {
    pub(crate) net: Topology,
    pub(crate) daemon: Daemon,
    listener: RawListener,
    edge: SocketAddr,
}

impl Scene {
    pub(crate) fn start(net: Topology, plan: Plan) -> Result<Self> {
        let (server, edge) = if plan.is_ipv6 { (BACKEND_IPV6, EDGE_IPV6) } else { (BACKEND_IPV4, EDGE_IPV4) };
        let server = SocketAddr::new(server, 9443);
        let listener = RawListener::bind(&net.backend, server)?;
        let config = plan.config.listen_to("one", "[::]:443", "one").upstream("one", server);
        let daemon = Launch::new()?.start(&net.edge, &config.datapath(Datapath::Packet))?;
        Ok(Self { net, daemon, listener, edge: SocketAddr::new(edge, 443) })
    }

    /// A connection that has carried some bytes.
    pub(crate) fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let (mut client, mut server) = (self.net.client.connect(self.edge)?, self.listener.accept()?);
        transfer(&mut client, &mut server, 1, 1000)?;
        Ok((client, server))
    }

    pub(crate) fn counted(&self) -> Result<Packet> {
        self.daemon.status()?.packet.context("the status has no counters of packets")
    }
}

/// Two offloaded connections: bulk both ways by one, questions and answers by the other. `meanwhile` happens in the middle of it.
pub(crate) fn plain(net: Topology, meanwhile: impl FnOnce(&Scene) -> Result<()>) -> Result<Outcome> {
    carried(Scene::start(net, Plan::default())?, meanwhile)
}

pub(crate) fn carried(scene: Scene, meanwhile: impl FnOnce(&Scene) -> Result<()>) -> Result<Outcome> {
    let (bulk, mut poll) = (scene.connect()?, scene.connect()?);
    scene.daemon.wait_for_packets(2)?;
    let before = scene.counted()?;
    let over = AtomicBool::new(false);
    let polls = thread::scope(|scope| {
        let poller = scope.spawn(|| ask(&mut poll, &over));
        let result = both_ways(&bulk, 2).and_then(|()| {
            let second = scope.spawn(|| both_ways(&bulk, 4));
            let done = meanwhile(&scene);
            second.join().map_err(|_| anyhow!("bulk panicked"))?.and(done)
        });
        over.store(true, Ordering::Relaxed);
        let polls = poller.join().map_err(|_| anyhow!("polling panicked"))?;
        result.and(polls)
    });
    println!("before: {before:?}\nafter: {:?}", scene.counted());
    let polls = polls?;
    let after = scene.counted()?;
    let (bytes, packets) =
        (after.forwarded_bytes - before.forwarded_bytes, after.forwarded - before.forwarded);
    ensure!(bytes >= 4 * BULK, "only {bytes} bytes were forwarded: {before:?} {after:?}");
    for (client, server) in [bulk, poll] {
        end(&scene, client, server)?;
    }
    scene.daemon.stop()?;
    let lost = after.untranslatable - before.untranslatable;
    ensure!(lost == 0, "{lost} packets could not be translated");
    Ok(Outcome { result: format!("good; {polls} polls"), bytes: 4 * BULK, mean: bytes / packets.max(1) })
}

/// Plays a connection that is copied for this fallback reason. After `mend` another connection is offloaded.
pub(crate) fn refused(
    net: Topology,
    reason: &str,
    mend: impl FnOnce(&Topology) -> Result<()>,
) -> Result<Outcome> {
    let scene = Scene::start(net, Plan::default())?;
    let (client, server) = scene.connect()?;
    let labels = [("from", "packet"), ("reason", reason)];
    scene.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    let copied = (client, server);
    both_ways(&copied, 2)?;
    drop(copied);
    mend(&scene.net)?;
    let before = scene.counted()?;
    let offloaded = scene.connect()?;
    scene.daemon.wait_for_packets(1)?;
    both_ways(&offloaded, 4)?;
    let after = scene.counted()?;
    let (bytes, packets) =
        (after.forwarded_bytes - before.forwarded_bytes, after.forwarded - before.forwarded);
    ensure!(bytes >= BULK, "only {bytes} bytes were forwarded: {before:?} {after:?}");
    let (client, server) = offloaded;
    end(&scene, client, server)?;
    scene.daemon.stop()?;
    let result = format!("copied (`{reason}`); offloaded once it is off");
    Ok(Outcome { result, bytes: 4 * BULK, mean: bytes / packets.max(1) })
}

fn both_ways((client, server): &(TcpStream, TcpStream), stream: u64) -> Result<()> {
    thread::scope(|scope| {
        let up = scope.spawn(|| transfer(&mut client.try_clone()?, &mut server.try_clone()?, stream, BULK));
        transfer(&mut server.try_clone()?, &mut client.try_clone()?, stream + 1, BULK).context("down")?;
        up.join().map_err(|_| anyhow!("a sender panicked"))?.context("up")
    })
}

/// Asks and answers until it is over; how often.
fn ask((client, server): &mut (TcpStream, TcpStream), over: &AtomicBool) -> Result<u64> {
    let mut count = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let question = [u8::try_from(count & 0xff)?; POLL];
        let mut found = [0; POLL];
        client.write_all(&question)?;
        server.read_exact(&mut found).context("polling, a question")?;
        ensure!(found == question, "another question: {found:?}");
        server.write_all(&question)?;
        client.read_exact(&mut found).context("polling, an answer")?;
        ensure!(found == question, "another answer: {found:?}");
        count += 1;
        dawdle(Duration::from_millis(10));
    }
    Ok(count)
}

fn end(scene: &Scene, mut client: TcpStream, mut server: TcpStream) -> Result<()> {
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = scene.daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "eof" && access.datapath.as_deref() == Some("packet"), "{access:?}");
    Ok(())
}
