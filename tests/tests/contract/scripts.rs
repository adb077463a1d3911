//! Law 9, and with it 1, 2, 3, 5 and 6 for hundreds of flows at once: every flow has a script of its own.

use std::env;

use anyhow::{Context as _, Result};
use harness::carrier::Carrier;
use harness::daemon::Launch;
use harness::script::Arena;
use harness::script::run::{SEED, Totals, round, wave_of};

/// Seeds that are played on every run.
const SEEDS: u64 = 200;

/// Fixed seeds, unless the environment names one: then the wave that it belongs to.
fn waves() -> Result<Vec<u64>> {
    let Ok(seed) = env::var(SEED) else {
        return Ok((0..SEEDS).filter(|seed| *seed == wave_of(*seed)).collect());
    };
    let seed: u64 = seed.parse().with_context(|| format!("{SEED} is {seed:?}"))?;
    Ok(vec![wave_of(seed)])
}

#[test]
fn law_9_scripts_are_seen_as_under_copy() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let launch = Launch::new()?.quiet();
    let mut arenas = vec![Arena::open(carrier.by_copy(), &launch)?];
    if carrier.is_kernel() {
        arenas.push(Arena::open(carrier, &launch)?);
    }
    let mut totals = vec![Totals::default(); arenas.len()];
    for first in waves()? {
        round(&mut arenas, first, &mut totals)?;
    }
    println!("{totals:?}");
    arenas.into_iter().try_for_each(Arena::close)
}
