//! What flows without sockets cost: the programs on packets of others, the hand-over, and what a flow holds in the kernel.

mod crowd;
mod figures;
mod handover;
mod million;
mod programs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use harness::command;
use harness::daemon::{Config, Datapath, Launch};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::figures::Figures;

/// Measures the packet datapath where the benchmark of all datapaths cannot: by running its programs, by the time of the daemon
/// alone, and with the maps filled by hand.
///
/// Needs root. Makes three network namespaces and removes them in the end.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench packet")]
struct Arguments {
    /// The snisplice binary to measure; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
    /// Not used: there are no rivals here.
    #[arg(long, hide = true)]
    rivals: Option<PathBuf>,
    /// Rounds, each of which measures everything but the filled maps once.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// Flows that are handed over in a round.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    flows: usize,
    /// Offloaded connections in the map while a client lists and scrapes them all the time.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    crowd: u32,
    /// Flows that the maps are filled with.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    filled: u32,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("snisplice-bench-packet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when all targets are met.
fn bench(arguments: &Arguments) -> Result<bool> {
    ensure!(arguments.rounds > 0, "--rounds: at least 1");
    allow_descriptors()?;
    let binary = arguments.snisplice.clone().map_or_else(command::snisplice, Ok)?;
    let launch = Launch::of(binary).terse().quiet();
    let mut figures = Figures::default();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        programs::measure(&launch, &mut figures)?;
        handover::measure(&launch, arguments.flows, &mut figures)?;
    }
    eprintln!("{} connections by hand, listed all the time", arguments.crowd);
    crowd::measure(&launch, arguments.crowd, &mut figures)?;
    eprintln!("{} flows by hand", arguments.filled);
    million::measure(&launch, arguments.filled, &mut figures)?;
    print!("{}", figures.table());
    let targets = figures.targets();
    for (target, is_met) in &targets {
        println!("{} {target}", if *is_met { "met    " } else { "NOT MET" });
    }
    Ok(targets.iter().all(|(_, is_met)| *is_met))
}

/// A site whose flows leave their sockets when they are so old.
fn site(launch: &Launch, pins: &Pins, after: &str) -> Result<RawSite> {
    RawSite::launch(&config_of(pins, after), launch)
}

fn config_of(pins: &Pins, after: &str) -> Config {
    config().datapath(Datapath::Packet).packet(pins, after)
}

/// Both ends of all flows are here.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}
