//! Daemons that are killed at any moment while flows begin, leave their sockets and carry bytes: each flow goes on, or both of
//! its ends are told by a reset. None hangs, and none ends in order with less than was sent.

use std::collections::HashMap;
use std::env;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::daemon::{Config, Datapath, Launch};
use harness::deadline::{PATIENCE, dawdle};
use harness::keyed::{Keyed, read_some};
use harness::netns::{Topology, backend, edge};
use harness::peers::raw::{Ending, RawListener, finish, is_reset, read_to_ending};
use harness::pins::Pins;

use crate::outlive::kill;

/// Networks with daemons of their own, at the same time; for how many seconds, unless the environment says so; and how many
/// daemons each kills at least.
const GROUNDS: u64 = 2;
const LASTS: u64 = 15;
const LEAST: u64 = 5;
const SECONDS: &str = "SNISPLICE_TEST_KILL_SECONDS";

/// Flows that begin under each daemon, at most.
const FLOWS: u8 = 24;

/// The longest that a daemon lives after its flows have begun.
const LIFE: u64 = 60;

/// Time in which a server's end of a flow arrives, if the daemon lives.
const ARRIVAL: Duration = Duration::from_millis(200);

const PORT: u16 = 9443;

/// What became of the flows.
#[derive(Debug, Default)]
struct Score {
    kills: u64,
    went_on: u64,
    were_reset: u64,
    never_arrived: u64,
}

/// A little generator (xorshift): which moments it is that matter is not known.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn flows_go_on_or_are_reset_whenever_the_daemon_is_killed() -> Result<()> {
    let seed = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() & 0xffff_ffff)?;
    let scores = thread::scope(|scope| {
        let grounds: Vec<_> = (1..=GROUNDS)
            .map(|number| scope.spawn(move || ground(&mut Dice(seed * GROUNDS + number))))
            .collect();
        let join = |one: thread::ScopedJoinHandle<'_, Result<Score>>| {
            one.join().map_err(|_| anyhow!("a ground panicked"))?
        };
        grounds.into_iter().map(join).collect::<Result<Vec<_>>>()
    })
    .with_context(|| format!("seed {seed}"))?;
    let sum = |of: fn(&Score) -> u64| scores.iter().map(of).sum::<u64>();
    println!(
        "{} daemons killed; of {} flows {} went on, {} were reset, {} had no server yet",
        sum(|score| score.kills),
        sum(|score| score.went_on + score.were_reset + score.never_arrived),
        sum(|score| score.went_on),
        sum(|score| score.were_reset),
        sum(|score| score.never_arrived)
    );
    ensure!(sum(|score| score.went_on) > 0 && sum(|score| score.were_reset) > 0, "{scores:?}");
    Ok(())
}

/// Kills one daemon after the other.
fn ground(dice: &mut Dice) -> Result<Score> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let listener = RawListener::bind(&net.backend, backend(PORT))?;
    let config = Config::new()
        .listen_to("all", "[::]:443", "all")
        .upstream("all", backend(PORT))
        .datapath(Datapath::Packet)
        .packet(&pins, "0s");
    let launch = Launch::new()?.quiet();
    let mut score = Score::default();
    let begun = Instant::now();
    let lasts = Duration::from_secs(env::var(SECONDS).map_or(Ok(LASTS), |text| text.parse())?);
    let mut daemon = Some(launch.start(&net.edge, &config)?);
    while begun.elapsed() < lasts || score.kills < LEAST {
        let stop = AtomicBool::new(false);
        let (moment, lull) = (Duration::from_millis(dice.below(LIFE)), 1 + dice.below(4));
        let mut doomed = daemon.take().context("no daemon")?;
        thread::scope(|scope| {
            let stopping = Stop(&stop);
            let mut clients = begin(&net);
            let killing = scope.spawn(move || {
                dawdle(moment);
                kill(&mut doomed)
            });
            let mut playing = Vec::new();
            while !clients.is_empty()
                && let Some(mut server) = listener.accept_within(ARRIVAL)?
            {
                let mut number = [0];
                // One that was reset already is told of by its client.
                if server.read_exact(&mut number).is_ok()
                    && let Some(client) = clients.remove(&number)
                {
                    playing.push(scope.spawn(|| play((client, server), lull, &stop)));
                }
            }
            killing.join().map_err(|_| anyhow!("the killer panicked"))??;
            daemon = Some(launch.start(&net.edge, &config)?);
            drop(stopping);
            score.never_arrived += clients.len() as u64;
            clients.into_values().try_for_each(lone)?;
            for flow in playing {
                let went_on = flow
                    .join()
                    .map_err(|_| anyhow!("a flow panicked"))?
                    .with_context(|| format!("kill {} after {moment:?}, lulls of {lull} ms", score.kills))?;
                score.went_on += u64::from(went_on);
                score.were_reset += u64::from(!went_on);
            }
            Ok::<(), anyhow::Error>(())
        })?;
        score.kills += 1;
        // Servers of clients that have not waited.
        while listener.accept_within(Duration::ZERO)?.is_some() {}
    }
    let daemon = daemon.context("no daemon")?;
    daemon.wait_for_packets(0)?;
    daemon.stop()?;
    Ok(score)
}

/// Tells the flows to stop, however the daemon's life ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients that say which one they are, as long as the daemon lives.
fn begin(net: &Topology) -> HashMap<[u8; 1], TcpStream> {
    let connect = |number: u8| {
        let mut client = net.client.connect(edge(443)).ok()?;
        client.write_all(&[number]).ok()?;
        Some(([number], client))
    };
    (0..FLOWS).map_while(connect).collect()
}

fn lone(mut client: TcpStream) -> Result<()> {
    // Nothing was carried yet, so that it does not matter how it ends; but it does end.
    let (bytes, _) = read_to_ending(&mut client)?;
    ensure!(bytes == 0, "a client without a server got {bytes} bytes");
    Ok(())
}

/// Both ends send and receive until it is to stop, and end in order. Says whether they could.
fn play((client, server): (TcpStream, TcpStream), lull: u64, stop: &AtomicBool) -> Result<bool> {
    let went_on = thread::scope(|scope| {
        let senders = [(1, &client), (2, &server)]
            .map(|(stream, from)| scope.spawn(move || send(from, stream, lull, stop)));
        let receivers =
            [(1, &server), (2, &client)].map(|(stream, to)| scope.spawn(move || receive(to, stream)));
        let [up, down] = senders;
        let up = up.join().map_err(|_| anyhow!("a sender panicked"))??;
        let down = down.join().map_err(|_| anyhow!("a sender panicked"))??;
        let mut went_on = true;
        for (receiver, (sent, own)) in receivers.into_iter().zip([(up, down), (down, up)]) {
            let (received, ending, is_open) =
                receiver.join().map_err(|_| anyhow!("a receiver panicked"))??;
            // A reset is told once, here to the thread that sends.
            let ending = if own.is_none() && !is_open { Ending::Reset } else { ending };
            if ending == Ending::Eof && sent != Some(received) {
                bail!("an end after {received} bytes, of which {sent:?} were sent before an end");
            }
            went_on &= ending == Ending::Eof;
        }
        Ok::<_, anyhow::Error>(went_on)
    });
    drop((client, server));
    went_on
}

/// Some: all was handed to the kernel, and then the end.
fn send(mut to: &TcpStream, stream: u64, lull: u64, stop: &AtomicBool) -> Result<Option<u64>> {
    let (mut keyed, mut chunk, mut sent) = (Keyed::new(stream), vec![0; 2 * 1024], 0);
    // Some more after the next daemon has begun: those that go on have to show it.
    let mut rest = 4;
    while rest > 0 {
        rest -= u32::from(stop.load(Ordering::Relaxed));
        keyed.fill(&mut chunk);
        match to.write_all(&chunk) {
            Ok(()) => sent += chunk.len() as u64,
            Err(error) if is_reset(&error) => return Ok(None),
            Err(error) => return Err(error).context(format!("sending hangs after {sent} bytes")),
        }
        dawdle(Duration::from_millis(lull));
    }
    Ok(finish(to).is_ok().then_some(sent))
}

/// How many bytes came, how that ended, and whether the connection was still there then.
fn receive(mut from: &TcpStream, stream: u64) -> Result<(u64, Ending, bool)> {
    let (mut keyed, mut chunk, mut received) = (Keyed::new(stream), vec![0; 64 * 1024], 0);
    loop {
        match read_some(&mut from, &mut chunk) {
            Ok(0) => return Ok((received, Ending::Eof, from.peer_addr().is_ok())),
            Ok(count) => {
                keyed.check(chunk.get(..count).unwrap_or_default())?;
                received += count as u64;
            }
            Err(error) if is_reset(&error) => return Ok((received, Ending::Reset, false)),
            Err(error) => bail!("receiving hangs after {received} bytes, for {PATIENCE:?}: {error}"),
        }
    }
}
