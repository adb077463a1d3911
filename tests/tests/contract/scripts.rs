//! Law 9, and with it 1, 2, 3, 5 and 6 for hundreds of flows at once: every flow has a script of its own.
//!
//! Scripts wait more than they work, so that quarters of the seeds are tests of their own, which run side by side.

use std::env;

use anyhow::{Context as _, Result};
use harness::carrier::Carrier;
use harness::daemon::Launch;
use harness::script::Arena;
use harness::script::run::{SEED, Totals, number_of, round, wave_of};

/// Seeds that are played on every run.
const SEEDS: u64 = 200;

const QUARTERS: u64 = 4;

/// Fixed seeds, unless the environment names one: then the wave that it belongs to, in its quarter.
fn waves(quarter: u64) -> Result<Vec<u64>> {
    let waves = match env::var(SEED) {
        Ok(seed) => {
            let seed = seed.parse().with_context(|| format!("{SEED} is {seed:?}"))?;
            vec![wave_of(seed)]
        }
        Err(_) => (0..SEEDS).filter(|seed| *seed == wave_of(*seed)).collect(),
    };
    Ok(waves.into_iter().filter(|first| number_of(*first) % QUARTERS == quarter).collect())
}

fn scripts_are_seen_as_under_copy(quarter: u64) -> Result<()> {
    let waves = waves(quarter)?;
    if waves.is_empty() {
        println!("{SEED} is played by another quarter");
        return Ok(());
    }
    let carrier = Carrier::of_environment()?;
    let launch = Launch::new()?.quiet();
    let mut arenas = vec![Arena::open(carrier.by_copy(), &launch)?];
    if carrier.is_kernel() {
        arenas.push(Arena::open(carrier, &launch)?);
    }
    let mut totals = vec![Totals::default(); arenas.len()];
    for first in waves {
        round(&mut arenas, first, &mut totals)?;
    }
    println!("{totals:?}");
    arenas.into_iter().try_for_each(Arena::close)
}

#[test]
fn law_9_scripts_are_seen_as_under_copy_1() -> Result<()> {
    scripts_are_seen_as_under_copy(0)
}

#[test]
fn law_9_scripts_are_seen_as_under_copy_2() -> Result<()> {
    scripts_are_seen_as_under_copy(1)
}

#[test]
fn law_9_scripts_are_seen_as_under_copy_3() -> Result<()> {
    scripts_are_seen_as_under_copy(2)
}

#[test]
fn law_9_scripts_are_seen_as_under_copy_4() -> Result<()> {
    scripts_are_seen_as_under_copy(3)
}
