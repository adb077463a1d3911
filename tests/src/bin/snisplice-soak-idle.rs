//! `snisplice-soak-idle`: holds thousands of offloaded connections on a busy machine. Each carries a byte both ways now and
//! then, and is replaced after some minutes. A connection that ends otherwise is a failure.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use harness::daemon::{Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::peers::raw::{Ending, expect_ending, finish, reset};
use harness::pins::Pins;
use harness::random::Random;
use harness::site::{RawSite, config};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Time between two looks for connections whose turn has come.
const TICK: Duration = Duration::from_millis(100);

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(30);

/// Half of the connections carry a byte at least this often, so that the daemon never asks whether their peers live;
const BUSY: Duration = Duration::from_secs(30);
/// the others rest for longer than `keepalive`, so that it does.
const QUIET: Duration = Duration::from_secs(300);

/// The life of a connection.
const LIFE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(1200)];

/// A new connection carries so many bytes soon, so that it is offloaded early in its life.
const FIRST: u8 = 8;
const SOON: Duration = Duration::from_secs(2);

/// Local ports of the connections to the server, outside of those that Linux gives to others.
const PORTS: &str = "11000-32000";

/// The run stops after so many failures.
const FAILURES_MAX: usize = 10;

/// Holds idle offloaded connections on a busy machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "snisplice-soak-idle", version)]
struct Arguments {
    /// How long.
    #[arg(long)]
    minutes: f64,
    /// Connections at a time.
    #[arg(long, default_value_t = 9_000)]
    connections: usize,
    /// Threads that do nothing but use a processor.
    #[arg(long, default_value_t = 3)]
    hogs: usize,
    /// The first seed; without it one that is made of the time.
    #[arg(long)]
    seed: Option<u64>,
    /// The snisplice binary; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_over = AtomicBool::new(false);
    let played = thread::scope(|scope| {
        for _ in 0..arguments.hogs {
            scope.spawn(|| hog(&is_over));
        }
        let played = play(&arguments);
        is_over.store(true, Ordering::Relaxed);
        played
    });
    match played {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn hog(is_over: &AtomicBool) {
    let mut number = 1_u64;
    while !is_over.load(Ordering::Relaxed) {
        number = black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// Returns the number of failures.
fn play(arguments: &Arguments) -> Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let launch = arguments.snisplice.clone().map_or_else(Launch::new, |binary| Ok(Launch::of(binary)))?;
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "1s");
    let config = config.packet_line(&format!("ports = \"{PORTS}\""));
    let site = RawSite::launch(&config, &launch.quiet())?;
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("soak: seed {seed}");
    let random = Random::of(seed, 0);
    let mut soak = Soak { site, random, held: Vec::new(), tally: Tally::default(), failures: Vec::new() };
    soak.run(arguments)?;
    soak.end()
}

/// One connection, seen from both peers.
struct Held {
    client: TcpStream,
    server: TcpStream,
    begun: Instant,
    /// When it carries its next byte, and when it ends.
    due: Instant,
    until: Instant,
    pause: Duration,
    /// The next byte.
    next: u8,
}

/// What was done so far.
#[derive(Default)]
struct Tally {
    round_trips: u64,
    /// Offloaded connections times minutes.
    minutes: f64,
    /// How many connections ended, by the reason that their records must name.
    ended: BTreeMap<&'static str, usize>,
}

struct Soak {
    site: RawSite,
    random: Random,
    held: Vec<Held>,
    tally: Tally,
    failures: Vec<String>,
}

impl Soak {
    fn run(&mut self, arguments: &Arguments) -> Result<()> {
        for _ in 0..arguments.connections {
            self.open()?;
        }
        println!(
            "soak: {} connections, {} minutes, {} hogs",
            self.held.len(),
            arguments.minutes,
            arguments.hogs
        );
        let begun = Instant::now();
        let until = begun + Duration::try_from_secs_f64(60.0 * arguments.minutes)?;
        let mut told = begun;
        while Instant::now() < until && self.failures.len() < FAILURES_MAX {
            self.exchange();
            self.replace();
            if told.elapsed() >= PROGRESS {
                self.tell(begun, told.elapsed())?;
                told = Instant::now();
            }
            dawdle(TICK);
        }
        self.tell(begun, told.elapsed())
    }

    fn open(&mut self) -> Result<()> {
        let (client, server) = self.site.flow()?;
        let [least, most] = LIFE;
        let now = Instant::now();
        let pause = if self.random.one_in(2) { BUSY } else { QUIET };
        let (due, until) = (now + self.random.time(SOON), now + least + self.random.time(most - least));
        self.held.push(Held { client, server, begun: now, due, until, pause, next: 0 });
        Ok(())
    }

    /// Sends a byte through each connection whose turn it is, and back. Those of one turn are on their way together.
    fn exchange(&mut self) {
        let now = Instant::now();
        let mut turn: Vec<&mut Held> = self.held.iter_mut().filter(|one| one.due <= now).collect();
        let steps: [fn(&mut Held) -> Result<()>; 4] = [
            |it| it.client.write_all(&[it.next]).context("the client writes"),
            |it| expect(&mut it.server, it.next).context("the server reads"),
            |it| it.server.write_all(&[it.next]).context("the server writes"),
            |it| expect(&mut it.client, it.next).context("the client reads"),
        ];
        let mut failed = Vec::new();
        for step in steps {
            turn.retain_mut(|one| match step(one) {
                Ok(()) => true,
                Err(error) => {
                    one.until = now;
                    failed.push((one.client.local_addr().ok(), one.begun.elapsed(), error));
                    false
                }
            });
        }
        for one in &mut turn {
            one.next = one.next.wrapping_add(1);
            one.due = now + self.random.time(if one.next < FIRST { SOON } else { one.pause });
        }
        self.tally.round_trips += turn.len() as u64;
        for (client, age, error) in failed {
            let client = client.map(|address| address.to_string()).unwrap_or_default();
            self.fail(&client, &format!("at the age of {age:?}: {error:#}"));
        }
    }

    /// Notes a failure with all that the daemon's log says of the connection.
    fn fail(&mut self, client: &str, what: &str) {
        self.held.retain(|one| one.client.local_addr().is_ok_and(|address| address.to_string() != client));
        let said = wait_for("the access record", PATIENCE, || {
            let lines: Vec<_> =
                self.site.daemon.log().into_iter().filter(|line| line.contains(client)).collect();
            (!lines.is_empty()).then_some(lines)
        });
        let said = said.unwrap_or_default().join("\n");
        println!("FAILED: {client} {what}\n{said}\n{:?}", self.site.daemon.status());
        self.failures.push(client.to_owned());
    }

    fn replace(&mut self) {
        let now = Instant::now();
        let (over, held) =
            std::mem::take(&mut self.held).into_iter().partition(|one: &Held| one.until <= now);
        self.held = held;
        for one in over {
            self.close(one);
            if let Err(error) = self.open() {
                println!("FAILED: no new connection: {error:#}");
                self.failures.push("a new one".to_owned());
            }
        }
    }

    fn close(&mut self, one: Held) {
        let client = one.client.local_addr().map(|address| address.to_string()).unwrap_or_default();
        match close(one, self.random.one_in(2)) {
            Ok(reason) => *self.tally.ended.entry(reason).or_default() += 1,
            Err(error) => self.fail(&client, &format!("while it was closed: {error:#}")),
        }
    }

    fn tell(&mut self, begun: Instant, since: Duration) -> Result<()> {
        let metrics = self.site.daemon.metrics()?;
        let offloaded = metrics.sum("snisplice_connections_active", &[("datapath", "packet")]);
        self.tally.minutes += offloaded * since.as_secs_f64() / 60.0;
        let load = fs::read_to_string("/proc/loadavg")?;
        println!(
            "soak: {:.1} min, {} open, {offloaded} offloaded, {:.0} connection-minutes, {} round trips, {} ended, \
             load {}, {} failures",
            begun.elapsed().as_secs_f64() / 60.0,
            self.held.len(),
            self.tally.minutes,
            self.tally.round_trips,
            self.tally.ended.values().sum::<usize>(),
            load.split(' ').next().unwrap_or_default(),
            self.failures.len()
        );
        Ok(())
    }

    /// Closes what is left, and compares the records with what was done.
    fn end(mut self) -> Result<usize> {
        for one in std::mem::take(&mut self.held) {
            self.close(one);
        }
        if self.failures.is_empty() {
            wait_for("all records", PATIENCE, || {
                (reasons(&self.site.daemon) == self.tally.ended).then_some(())
            })
            .with_context(|| {
                format!("records: {:?}; ended: {:?}", reasons(&self.site.daemon), self.tally.ended)
            })?;
            self.site.daemon.stop()?;
        }
        println!("soak: {:?}, {} failures", self.tally.ended, self.failures.len());
        Ok(self.failures.len())
    }
}

fn expect(stream: &mut TcpStream, wanted: u8) -> Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    ensure!(byte == [wanted], "{byte:?} came in place of {wanted}");
    Ok(())
}

/// Returns the reason that the record must name.
fn close(mut one: Held, in_order: bool) -> Result<&'static str> {
    if !in_order {
        reset(one.client)?;
        expect_ending(&mut one.server, Ending::Reset)?;
        return Ok("client_reset");
    }
    finish(&one.client)?;
    expect_ending(&mut one.server, Ending::Eof)?;
    finish(&one.server)?;
    expect_ending(&mut one.client, Ending::Eof)?;
    Ok("eof")
}

fn reasons(daemon: &Daemon) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for record in daemon.access() {
        let known = ["eof", "client_reset"].into_iter().find(|reason| *reason == record.reason);
        *found.entry(known.unwrap_or("another")).or_default() += 1;
    }
    found
}
