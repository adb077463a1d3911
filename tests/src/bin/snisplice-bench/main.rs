//! `snisplice-bench`: compares ways by which a client's bytes can reach a server, in one run on one machine.
//!
//! No proxy, snisplice with each of its datapaths, and other proxies, in network namespaces. In each round each system
//! is measured once, and each round begins with another system. What is reported is the median of the rounds and
//! their range.

mod compare;
mod facts;
mod load;
mod memory;
mod meter;
mod network;
mod others;
mod plan;
mod report;
mod results;
mod run;
mod stats;
mod system;
mod targets;
mod values;

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use harness::{command, interrupt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::Plan;
use crate::results::Results;
use crate::system::Places;

/// Compares snisplice with no proxy and with other proxies.
///
/// Needs root. Makes three network namespaces and removes them in the end.
#[derive(Debug, Parser)]
#[command(name = "snisplice-bench", version)]
struct Arguments {
    /// The snisplice binary to measure; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
    /// A directory with unpacked packages of other proxies.
    #[arg(long, value_name = "DIR")]
    rivals: Option<PathBuf>,
    /// Fewer scenarios, rounds and seconds: under three minutes, and no basis for claims.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose id begins with this.
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these systems.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    system: Vec<String>,
    /// Rounds, each of which measures every system once [default: 5, with --quick 2].
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// Seconds of each measurement [default: 1, with --quick 0.4].
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Writes all figures of all rounds to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the pictures, the table and all figures into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes docs/benchmarks.md and its pictures anew; not with --quick.
    #[arg(long, conflicts_with = "quick")]
    docs: bool,
    /// Measures nothing, and reports what earlier runs have written with --json; several are put together.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    from: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            interrupt::give_way();
            eprintln!("snisplice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; true when nothing failed.
fn bench(arguments: &Arguments) -> Result<bool> {
    let results = if arguments.from.is_empty() { measure(arguments)? } else { read(&arguments.from)? };
    ensure!(!(arguments.docs && results.quick), "a quick run is no basis for docs/benchmarks.md");
    let table = report::table::render(&results);
    let json = serde_json::to_string_pretty(&results)?;
    println!("{table}");
    if let Some(file) = &arguments.json {
        fs::write(file, &json).with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(folder) = &arguments.out {
        report::docs::write_pictures(&report::plots::pictures(&results), folder)?;
        for (name, text) in [("table.txt", &table), ("results.json", &json)] {
            fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
        }
    }
    if arguments.docs {
        report::docs::write(&results, &FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../docs"))?;
    }
    Ok(results.failures().next().is_none() && results.complaints.is_empty())
}

fn measure(arguments: &Arguments) -> Result<Results> {
    let (rounds, seconds) = if arguments.quick { (2, 0.4) } else { (5, 1.0) };
    let seconds = arguments.seconds.unwrap_or(seconds);
    ensure!((0.05..=600.0).contains(&seconds), "--seconds: from 0.05 to 600");
    let rounds = arguments.rounds.unwrap_or(rounds);
    ensure!(rounds > 0, "--rounds: at least 1");
    let (scenarios, systems) = Plan::choose(arguments.quick, &arguments.only, &arguments.system)?;
    let snisplice = arguments.snisplice.clone().map_or_else(command::snisplice, Ok)?;
    // nginx looks for what is relative somewhere else.
    let rivals =
        arguments.rivals.as_ref().map(fs::canonicalize).transpose().context("looking for --rivals")?;
    let places = Places { snisplice, rivals };

    interrupt::clean_up()?;
    allow_descriptors()?;
    let plan = Plan { scenarios, systems, rounds, window: Duration::from_secs_f64(seconds) };
    let mut results = run::run(plan, &places)?;
    results.quick = arguments.quick;
    Ok(results)
}

/// Puts earlier runs together.
fn read(files: &[PathBuf]) -> Result<Results> {
    let mut all = Results::default();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        all.add(serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(all)
}

/// Lets this process and what it starts open as many descriptors as the host lets root have.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raising the limit of descriptors")
}
