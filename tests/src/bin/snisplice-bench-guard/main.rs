//! What the guard costs for each packet, next to programs that do nothing and to nftables.

mod figures;
mod nft;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::figures::Figures;
use crate::scene::Scene;

/// Measures the guard by running its program on packets, and on a wire between two network namespaces.
///
/// Needs root. Makes three network namespaces and removes them in the end.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench guard")]
struct Arguments {
    /// The snisplice binary to measure; without it SNISPLICE_BIN, else the release build of this workspace.
    #[arg(long, value_name = "PATH")]
    snisplice: Option<PathBuf>,
    /// A directory with an unpacked package of nftables.
    #[arg(long, value_name = "DIR")]
    rivals: Option<PathBuf>,
    /// Rounds, each of which measures everything once.
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    rounds: usize,
    /// Fewer packets: no basis for claims.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("snisplice-bench-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when all targets are met.
fn bench(arguments: &Arguments) -> Result<bool> {
    ensure!(arguments.rounds > 0, "--rounds: at least 1");
    let scene = Scene::set(arguments.snisplice.clone(), arguments.rivals.as_deref())?;
    let mut figures = Figures::default();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        scene.measure(if arguments.quick { 20 } else { 1 }, &mut figures)?;
    }
    print!("{}", figures.table());
    let targets = figures.targets();
    for (target, is_met) in &targets {
        println!("{} {target}", if *is_met { "met    " } else { "NOT MET" });
    }
    if arguments.quick {
        println!("a quick run is no basis for claims");
    }
    scene.end()?;
    Ok(arguments.quick || targets.iter().all(|(_, is_met)| *is_met))
}
