//! `snisplice-soak`: plays fresh seeds by every datapath in turn until the time is over or a law is broken.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use harness::carrier::CARRIERS;
use harness::daemon::Launch;
use harness::script::run::{Totals, round, wave_of};
use harness::script::{Arena, WAVE};

/// Waves that are played by one daemon: its log is kept in memory, and starting and stopping are to be soaked too.
const WAVES: usize = 50;

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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut totals = [Totals::default(); CARRIERS.len()];
    let ended = soak(&arguments, &mut totals);
    let failures = u32::from(ended.is_err());
    if let Err(error) = ended {
        eprintln!("{error:#}");
    }
    println!("soak: {}, {failures} failures", summary(&totals));
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(arguments: &Arguments, totals: &mut [Totals]) -> Result<()> {
    let launch =
        arguments.snisplice.clone().map_or_else(Launch::new, |binary| Ok(Launch::of(binary)))?.quiet();
    let base = match arguments.seed {
        Some(seed) => wave_of(seed),
        // Seeds of two runs do not meet: a second is worth more of them than can be played in it.
        None => wave_of(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().saturating_mul(1000)),
    };
    println!("soak: seeds from {base} on, for {} minutes", arguments.minutes);
    let until = Instant::now() + Duration::try_from_secs_f64(60.0 * arguments.minutes)?;
    let mut told = Instant::now();
    let mut first = base;
    while Instant::now() < until {
        let mut arenas =
            CARRIERS.iter().map(|carrier| Arena::open(*carrier, &launch)).collect::<Result<Vec<_>>>()?;
        for _ in 0..WAVES {
            round(&mut arenas, first, totals)?;
            first += WAVE;
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                println!("soak: {}, 0 failures; next seed {first}", summary(totals));
            }
            if Instant::now() >= until {
                break;
            }
        }
        arenas.into_iter().try_for_each(Arena::close)?;
    }
    Ok(())
}

fn summary(totals: &[Totals]) -> String {
    let part = |(carrier, totals): (&harness::carrier::Carrier, &Totals)| {
        let Totals { seeds, flows, fallbacks, carried, bytes } = totals;
        let handed =
            if carrier.begins_as_copy() { format!("{carried} handed over, ") } else { String::new() };
        format!(
            "{}: {seeds} seeds, {flows} flows ({handed}{fallbacks} copied), {} MB",
            carrier.name,
            bytes / 1_000_000
        )
    };
    CARRIERS.iter().zip(totals).map(part).collect::<Vec<_>>().join("; ")
}
