//! `fuzz`: any bytes for what reads bytes of strangers, guided by what they reach (libFuzzer).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::console::{Step, Tone};
use crate::process::{self, keep_log, observe, tail};
use crate::{setup, workspace};

const PACKAGE: &str = "snisplice-fuzz";

/// Targets, each with the folder of inputs that it begins with, if there is one.
const TARGETS: [(&str, Option<&str>); 4] = [
    ("hello", Some("tests/corpus")),
    ("guard", Some("tests/fuzz/seeds/guard")),
    ("translate", None),
    ("validate", None),
];

/// What makes the compiler note where an input has led: what `cargo fuzz` passes, but for the sanitizers, which need a nightly
/// compiler and would find nothing in code without `unsafe`.
const INSTRUMENT: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// Fewer inputs than this in a second are those of a target that does not run.
const LEAST_RATE: u64 = 100;

/// What to fuzz.
#[derive(Args)]
pub(crate) struct Options {
    /// hello, guard, translate or validate [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target
    // libFuzzer takes 0 for ever.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Run this one input, with which the target has failed, instead of fuzzing
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
}

/// Builds the targets and runs them. True when none fails.
pub(crate) fn run(options: &Options) -> Result<bool> {
    for name in &options.targets {
        ensure!(
            TARGETS.iter().any(|(known, _)| known == name),
            "no target {name:?}\n  remedy: name one of {}",
            TARGETS.map(|(name, _)| name).join(", ")
        );
    }
    build()?;
    let mut good = true;
    for (name, seeds) in TARGETS {
        if options.targets.is_empty() || options.targets.iter().any(|target| target == name) {
            let played = match &options.input {
                Some(input) => again(name, input),
                None => play(name, seeds, options.seconds),
            };
            if let Err(error) = played {
                good = false;
                println!("{error:#}");
            }
        }
    }
    Ok(good)
}

/// All targets for so many seconds each: those that have held, and what the others said.
pub(crate) fn all(seconds: u64) -> Result<(usize, Vec<String>)> {
    build()?;
    let played = TARGETS.map(|(name, seeds)| play(name, seeds, seconds));
    let failed: Vec<String> =
        played.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    Ok((TARGETS.len() - failed.len(), failed))
}

fn build() -> Result<()> {
    setup::for_fuzz()?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--package", PACKAGE, "--bins", "--profile", "fuzz", "--target", &host()?])
        .args(workspace::locked())
        .env("CARGO_TARGET_DIR", folder())
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENT.join("\u{1f}"));
    process::step(
        "build what is fuzzed",
        &mut cargo,
        "fix the errors that the compiler reports in tests/fuzz",
    )
}

/// Apart from all else that is built, since it is built with other flags.
fn folder() -> PathBuf {
    workspace::target().join("fuzz")
}

/// The triple of this machine. With one named, build scripts are not instrumented.
fn host() -> Result<String> {
    let said = process::answer(Command::new(rustc()).arg("-vV")).context("rustc does not say what it is")?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say where it runs")?.to_owned())
}

/// The compiler beside the cargo that started us.
fn rustc() -> PathBuf {
    let beside = Path::new(workspace::cargo().get_program()).with_file_name("rustc");
    if beside.is_file() { beside } else { "rustc".into() }
}

fn program(name: &str) -> Result<PathBuf> {
    Ok(folder().join(host()?).join("fuzz").join(name))
}

fn play(name: &str, seeds: Option<&str>, seconds: u64) -> Result<()> {
    let (corpus, failures) = (folder().join("corpus").join(name), folder().join("failures"));
    for folder in [&corpus, &failures] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = Command::new(program(name)?);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", failures.display()))
        .args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=2048"])
        .arg(corpus)
        .args(seeds.map(|seeds| workspace::root().join(seeds)));
    let title = format!("fuzz {name}");
    let mut step = Step::begin(&title);
    let ended = observe(&mut command, &mut step, |_, _| String::new())?;
    let inputs = figure(&ended.output, "stat::number_of_executed_units:").unwrap_or(0);
    let reached = reached(&ended.output);
    let is_good = ended.status.success() && reached.is_some() && inputs >= LEAST_RATE * seconds;
    let note = format!("{inputs} inputs, {} places reached", reached.unwrap_or(0));
    step.end(if is_good { Tone::Good } else { Tone::Bad }, &note);
    if is_good {
        return Ok(());
    }
    let log = keep_log(&title, &ended.output)?;
    let kept = ended.output.lines().find_map(|line| line.split("Test unit written to ").nth(1));
    let again = kept.map_or_else(String::new, |file| {
        format!("\n  to play it again: cargo xtask fuzz {name} --input {file}")
    });
    bail!("{}fuzz {name}: {note}, {}\n  whole log: {log}{again}", tail(&ended.output), ended.status)
}

fn again(name: &str, input: &Path) -> Result<()> {
    let mut command = Command::new(program(name)?);
    process::step(&format!("fuzz {name} once"), command.arg(input), "fix what the last lines name")
}

/// The last figure behind a word.
fn figure(output: &str, word: &str) -> Option<u64> {
    output.lines().filter_map(|line| line.strip_prefix(word)).next_back()?.trim().parse().ok()
}

/// Places of the code that inputs have led to. None: the code was not instrumented.
fn reached(output: &str) -> Option<u64> {
    let words = output.lines().rev().find_map(|line| line.split(" cov: ").nth(1))?;
    words.split_whitespace().next()?.parse().ok().filter(|places| *places > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb
#524288\tpulse  cov: 208 ft: 613 corp: 91/8b lim: 4096 exec/s: 262144 rss: 60Mb
Done 900000 runs in 3 second(s)
stat::number_of_executed_units: 900000
stat::new_units_added:          91";

    #[test]
    fn what_was_done_is_read_from_what_is_said() {
        assert_eq!(figure(SAID, "stat::number_of_executed_units:"), Some(900_000));
        assert_eq!(reached(SAID), Some(208));
        assert_eq!(reached("Done 5 runs in 3 second(s)"), None);
    }
}
