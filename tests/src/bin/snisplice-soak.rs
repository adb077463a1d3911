//! `snisplice-soak`: plays fresh seeds by every datapath in turn until the time is over or a law is broken. What leaves its
//! sockets is played on a bad network too, each time at another age.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use clap::Parser;
use harness::carrier::{CARRIERS, Carrier};
use harness::daemon::Launch;
use harness::impair::Badness;
use harness::pins::Pins;
use harness::script::run::{Totals, round, wave_of};
use harness::script::{Arena, WAVE};

/// Waves that are played by one daemon: its log is kept in memory, and starting and stopping are to be soaked too.
const WAVES: usize = 20;

/// Ages at which flows leave their sockets on a bad network.
const AGES: [&str; 5] = ["0s", "1ms", "4ms", "12ms", "40ms"];
const NETWORKS: [Badness; 2] = [Badness::LITTLE, Badness::MUCH];

/// What is played: every datapath on a good network, and the last one on a bad one.
const PLAYED: usize = CARRIERS.len() + 1;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// Plays the contract's scripts with fresh seeds. Needs root.
#[derive(Debug, Parser)]
#[command(name = "snisplice-soak", version)]
struct Arguments {
    /// How long.
    #[arg(long)]
    minutes: f64,
    /// The first seed; without it one that is made of the time.
    #[arg(long)]
    seed: Option<u64>,
    /// The snisplice binary; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
}

/// What all lanes share.
struct Soak {
    launch: Launch,
    until: Instant,
    next: AtomicU64,
    has_failed: AtomicBool,
    said: Mutex<Said>,
}

/// What was played so far, and when that was last said.
struct Said {
    totals: [Totals; PLAYED],
    told: Instant,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let soak = match Soak::prepare(&arguments) {
        Ok(soak) => soak,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let failures = thread::scope(|scope| {
        let soak = &soak;
        let lanes: Vec<_> = (0..lanes()).map(|lane| scope.spawn(move || soak.lane(lane))).collect();
        lanes
            .into_iter()
            .filter_map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow!("a lane panicked"))).err())
            .collect::<Vec<_>>()
    });
    for failure in &failures {
        eprintln!("{failure:#}");
    }
    let said = soak.said.into_inner().unwrap_or_else(PoisonError::into_inner);
    let flows: u64 = said.totals.iter().map(|totals| totals.flows).sum();
    println!("soak: {flows} flows; {}; {} failures", summary(&said.totals), failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waves that are played at the same time: scripts wait more than they work.
fn lanes() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get) + 1
}

impl Soak {
    fn prepare(arguments: &Arguments) -> Result<Self> {
        let launch = arguments.snisplice.clone().map_or_else(Launch::new, |binary| Ok(Launch::of(binary)))?;
        let base = match arguments.seed {
            Some(seed) => wave_of(seed),
            // Seeds of two runs do not meet: a second is worth more of them than can be played in it.
            None => wave_of(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().saturating_mul(1000)),
        };
        println!("soak: seeds from {base} on, for {} minutes, {} at a time", arguments.minutes, lanes());
        Ok(Self {
            launch: launch.quiet(),
            until: Instant::now() + Duration::try_from_secs_f64(60.0 * arguments.minutes)?,
            next: AtomicU64::new(base),
            has_failed: AtomicBool::new(false),
            said: Mutex::new(Said { totals: Default::default(), told: Instant::now() }),
        })
    }

    fn is_over(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    /// One daemon for each datapath after the other, until the time is over or any lane has failed.
    fn lane(&self, lane: usize) -> Result<()> {
        let networks = AGES.iter().cycle().zip(NETWORKS.iter().cycle()).skip(lane);
        for (age, badness) in networks {
            if self.is_over() {
                break;
            }
            self.play(age, *badness).inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }

    fn play(&self, age: &str, badness: Badness) -> Result<()> {
        let open = |carrier: &Carrier| Arena::open(*carrier, &self.launch);
        let mut arenas = CARRIERS.iter().map(open).collect::<Result<Vec<_>>>()?;
        let pins = Pins::create()?;
        arenas.push(bad(&self.launch, &pins, age, badness)?);
        for _ in 0..WAVES {
            let mut totals = [Totals::default(); PLAYED];
            round(&mut arenas, self.next.fetch_add(WAVE, Ordering::Relaxed), &mut totals)?;
            self.say(totals);
            if self.is_over() {
                break;
            }
        }
        arenas.into_iter().try_for_each(Arena::close)
    }

    fn say(&self, totals: [Totals; PLAYED]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for (all, own) in said.totals.iter_mut().zip(totals) {
            *all += own;
        }
        if said.told.elapsed() > PROGRESS && !self.has_failed.load(Ordering::Relaxed) {
            said.told = Instant::now();
            println!("soak: {}; 0 failures", summary(&said.totals));
        }
    }
}

fn bad(launch: &Launch, pins: &Pins, age: &str, badness: Badness) -> Result<Arena> {
    let [.., packet] = CARRIERS;
    let mut arena = Arena::open_with(packet, launch, |config| config.packet(pins, age))?;
    arena.spoil(badness)?;
    Ok(arena)
}

fn summary(totals: &[Totals; PLAYED]) -> String {
    let part = |(at, (carrier, totals)): (usize, (&Carrier, &Totals))| {
        let Totals { seeds, flows, fallbacks, carried, bytes } = totals;
        let place = if at < CARRIERS.len() { "" } else { " on a bad network" };
        let handed =
            if carrier.begins_as_copy() { format!("{carried} handed over, ") } else { String::new() };
        format!(
            "{}{place}: {seeds} seeds, {flows} flows ({handed}{fallbacks} copied), {} MB",
            carrier.name,
            bytes / 1_000_000
        )
    };
    let played = CARRIERS.iter().chain(CARRIERS.last());
    played.zip(totals).enumerate().map(part).collect::<Vec<_>>().join("; ")
}
