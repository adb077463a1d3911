//! What test programs come to: they are run, counted, and the failing ones are shown.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::libtest::Tally;
use super::summary::Stage;
use super::{Options, guest, kernel_log};
use crate::console::{self, Step, Tone};
use crate::process::{SILENCE, Stream, keep_log, observe_for, tail};

/// A virtual machine that stands still is started so many times.
const STARTS: usize = 3;

/// What the test programs of one stage came to.
#[derive(Default)]
struct Outcome {
    tally: Tally,
    /// What went wrong besides failing tests: what it was, and the last words.
    broken: Vec<(String, String)>,
    log: String,
}

/// Runs `commands` as one stage, and shows what the failing tests said.
pub(super) fn tests(name: &str, commands: Vec<Command>, options: &Options) -> Stage {
    let began = Instant::now();
    let mut step = Step::begin(name);
    let mut outcome = Outcome::default();
    for mut command in commands {
        outcome.run(&mut command, SILENCE, &mut step);
    }
    outcome.end(name, began, &step, options)
}

/// Runs the tests of a virtual machine as one stage; also gives all that they said. An emulated processor loses an interrupt now and then,
/// and sleeps for good: then the machine does not even say that it lives. It is started again, which the summary has as a warning.
pub(super) fn of_guest(name: &str, mut command: Command, options: &Options) -> (Stage, String) {
    let began = Instant::now();
    let mut step = Step::begin(name);
    let mut warnings = Vec::new();
    for _ in 1..STARTS {
        let mut outcome = Outcome::default();
        if !outcome.run(&mut command, guest::SILENCE, &mut step) {
            return outcome.end_of_guest(name, began, &step, warnings, options);
        }
        let played = outcome.tally.progress();
        let warning = format!("the virtual machine stood still ({played}), and was started again");
        println!("         {warning}");
        warnings.push(warning);
    }
    let mut outcome = Outcome::default();
    outcome.run(&mut command, guest::SILENCE, &mut step);
    outcome.end_of_guest(name, began, &step, warnings, options)
}

impl Outcome {
    /// Says whether the command was ended since it said nothing for so long.
    fn run(&mut self, command: &mut Command, silence: Duration, step: &mut Step) -> bool {
        self.try_run(command, silence, step).unwrap_or_else(|error| {
            self.broken.push((format!("{error:#}"), String::new()));
            false
        })
    }

    fn try_run(&mut self, command: &mut Command, silence: Duration, step: &mut Step) -> Result<bool> {
        let (failed, unfinished) = (self.tally.failed, self.tally.unfinished());
        let tally = &mut self.tally;
        let ended = observe_for(command, silence, step, |stream, line| {
            match stream {
                Stream::Out => tally.line(line),
                Stream::Err => tally.cargo_line(line),
            }
            tally.progress()
        })?;
        let cut_short = self.tally.unfinished() - unfinished;
        if cut_short > 0 {
            let what = format!("test programs that ended before their last test: {cut_short}");
            self.broken.push((what, tail(&ended.output)));
        } else if !ended.status.success() && self.tally.failed == failed {
            self.broken.push((format!("cargo test ended with {}", ended.status), tail(&ended.output)));
        }
        self.log.push_str(&ended.output);
        Ok(ended.fell_silent)
    }

    fn end(&self, name: &str, began: Instant, step: &Step, options: &Options) -> Stage {
        let mut stage = self.settle(name);
        if stage.ran() == 0 && options.only.is_none() {
            stage.failed.push("no test was run".to_owned());
        }
        stage.took = began.elapsed();
        step.end(if stage.failed.is_empty() { Tone::Good } else { Tone::Bad }, &self.tally.progress());
        if !stage.failed.is_empty() {
            self.show(name);
        }
        stage
    }

    fn end_of_guest(
        self,
        name: &str,
        began: Instant,
        step: &Step,
        warnings: Vec<String>,
        options: &Options,
    ) -> (Stage, String) {
        let mut stage = self.end(name, began, step, options);
        stage.warnings.extend(warnings);
        for line in &stage.doctor {
            println!("         {line}");
        }
        let report: Vec<&str> =
            self.log.lines().filter_map(|line| line.strip_prefix(guest::REPORT)).collect();
        if !report.is_empty() {
            match keep_log(&format!("{name} doctor"), &report.join("\n")) {
                Ok(file) => println!("         with all that the kernel has logged of programs: {file}"),
                Err(error) => console::say(&format!("{error:#}")),
            }
        }
        (stage, self.log)
    }

    /// The figures of the stage.
    fn settle(&self, name: &str) -> Stage {
        let tally = &self.tally;
        let mut skipped = tally.skipped();
        skipped.extend((0..tally.ignored()).map(|_| "a test is marked as ignored".to_owned()));
        let mut failed: Vec<String> = tally.failures.iter().map(|(test, _)| test.clone()).collect();
        failed.extend((failed.len()..tally.failed).map(|_| "a test that left no words".to_owned()));
        failed.extend(self.broken.iter().map(|(what, _)| what.clone()));
        let guest = kernel_log::of_guest(&self.log);
        failed.extend(guest.failures);
        let (passed, warnings) = (tally.passed(), guest.warnings);
        let doctor = self.log.lines().filter_map(|line| line.strip_prefix(guest::DOCTOR));
        let (doctor, programs) = (doctor.map(str::to_owned).collect(), tally.programs.clone());
        let name = name.to_owned();
        Stage { name, passed, failed, skipped, warnings, doctor, programs, ..Stage::default() }
    }

    fn show(&self, name: &str) {
        for (what, said) in self.tally.failures.iter().chain(&self.broken) {
            println!("---- {what}\n{said}");
        }
        println!("to run one alone: cargo xtask test --only NAME");
        match keep_log(name, &self.log) {
            Ok(file) => println!("whole log of {name}: {file}"),
            Err(error) => console::say(&format!("{error:#}")),
        }
    }
}
