//! Plays seeds by several datapaths, judges what came of it, and compares.

use std::fmt::Write as _;
use std::ops::AddAssign;

use anyhow::{Context as _, Result, bail, ensure};

use super::arena::WAVE;
use super::{Arena, Outcome, judge};
use crate::carrier::Carrier;

/// The variable that names one seed to be played again.
pub const SEED: &str = "SNISPLICE_TEST_SEED";

/// Failing flows that are shown in full.
const SHOWN: usize = 3;

/// What was played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Seeds.
    pub seeds: u64,
    /// Flows.
    pub flows: u64,
    /// Flows that the daemon had to copy instead, since a side had ended before the hand-over.
    pub fallbacks: u64,
    /// Flows that it carried, at last.
    pub carried: u64,
    /// Bytes that arrived at a peer.
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, carrier: &Carrier, outcomes: &[Outcome]) {
        self.seeds += WAVE;
        self.flows += outcomes.len() as u64;
        self.bytes +=
            outcomes.iter().map(|outcome| outcome.client.received + outcome.server.received).sum::<u64>();
        self.carried += outcomes.iter().filter(|outcome| is_carried(carrier, outcome)).count() as u64;
        self.fallbacks += outcomes.iter().filter(|outcome| is_elsewhere(carrier, outcome)).count() as u64;
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Self) {
        self.seeds += more.seeds;
        self.flows += more.flows;
        self.fallbacks += more.fallbacks;
        self.carried += more.carried;
        self.bytes += more.bytes;
    }
}

/// The seeds that are played together with `seed`, from the first one on.
pub fn wave_of(seed: u64) -> u64 {
    seed - seed % WAVE
}

/// Which wave it is that begins with seed `first`, counted from 0.
pub fn number_of(first: u64) -> u64 {
    first / WAVE
}

/// The command that plays a seed again. What a bad network loses is drawn anew.
fn replay(arena: &Arena, seed: u64) -> String {
    if arena.is_bad() {
        return format!("{SEED}={seed} cargo test -p snisplice-tests --test packet scripts_survive");
    }
    let name = arena.carrier.name;
    format!(
        "{SEED}={seed} SNISPLICE_TEST_DATAPATH={name} cargo test -p snisplice-tests --test contract law_9"
    )
}

/// Plays the wave that begins with seed `first` by each of `arenas`, of which the first is the reference.
///
/// # Errors
/// When a law is broken; the message begins with the command that plays it again.
pub fn round(arenas: &mut [Arena], first: u64, totals: &mut [Totals]) -> Result<()> {
    ensure!(first == wave_of(first), "a wave does not begin with seed {first}");
    let mut reference: Option<Vec<Outcome>> = None;
    for (arena, totals) in arenas.iter_mut().zip(totals) {
        let carrier = arena.carrier;
        let outcomes = arena
            .play(first)
            .with_context(|| format!("{}\nlog: {:#?}", replay(arena, first), arena.warnings()))?;
        let wrong: Vec<(&Outcome, Vec<String>)> = outcomes
            .iter()
            .enumerate()
            .map(|(number, outcome)| {
                let other = reference.as_ref().and_then(|reference| reference.get(number));
                (outcome, all_wrong(&carrier, outcome, other))
            })
            .filter(|(_, wrong)| !wrong.is_empty())
            .collect();
        if !wrong.is_empty() {
            bail!("{}", report(arena, &wrong));
        }
        totals.add(&carrier, &outcomes);
        reference.get_or_insert(outcomes);
    }
    Ok(())
}

fn is_elsewhere(carrier: &Carrier, outcome: &Outcome) -> bool {
    datapath(outcome).is_some_and(|datapath| datapath != carrier.name)
}

fn is_carried(carrier: &Carrier, outcome: &Outcome) -> bool {
    datapath(outcome) == Some(carrier.name)
}

fn datapath(outcome: &Outcome) -> Option<&str> {
    outcome.record.as_ref().and_then(|record| record.datapath.as_deref())
}

fn all_wrong(carrier: &Carrier, outcome: &Outcome, reference: Option<&Outcome>) -> Vec<String> {
    let mut wrong = judge(outcome);
    if is_elsewhere(carrier, outcome) && !outcome.may_be_copied() && !carrier.begins_as_copy() {
        wrong.push(format!("it was not carried by {}", carrier.name));
    }
    if let Some(reference) = reference
        && reference.essence() != outcome.essence()
    {
        wrong.push(format!("under {} it was {}, here {}", "copy", reference.essence(), outcome.essence()));
    }
    wrong
}

fn report(arena: &Arena, wrong: &[(&Outcome, Vec<String>)]) -> String {
    let mut text = String::new();
    for (outcome, what) in wrong.iter().take(SHOWN) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}\n{}\n{outcome}", replay(arena, outcome.seed), what.join("\n"));
    }
    let rest: Vec<_> =
        wrong.iter().skip(SHOWN).map(|(outcome, what)| (outcome.seed, outcome.flow, what)).collect();
    let _ = write!(text, "{} flows in all; the others: {rest:?}", wrong.len());
    text
}
