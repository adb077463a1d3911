//! `test`: everything that says whether this tree is good, in stages. The kernel must not complain during any of them.

mod cards;
mod cards_table;
mod complaint;
mod guest;
mod kernel_log;
mod kernels;
mod libtest;
mod matrix;
mod outcome;
mod part;
mod plan;
mod soak;
mod summary;

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use self::outcome::tests;
use self::summary::Stage;
use crate::lint::{self, Verdict};
use crate::{build, fuzz, privilege, setup, workspace};

/// Tests of one end-to-end program that run at a time: each has its own network, and waits more than it works.
const THREADS: &str = "3";

/// Names all kernels.
const ALL_KERNELS: &str = "all";

/// The program whose tests are about one datapath: a stage of its own plays them.
const PACKET: &str = "packet";

/// The program for kernels that are too old, which are played in guests only.
const OLD_KERNEL: &str = "old_kernel";

/// Programs whose tests do not depend on what carries the bytes, or choose it themselves: played once.
const ANYHOW: [&str; 12] = [
    "admin",
    "bench",
    "claims",
    "cli",
    "containers",
    "denied",
    "guard",
    "hello",
    "kernel",
    "local",
    "old_kernel",
    "routing",
];

/// Time for each target of the fuzzing: enough for what a change has broken, while `cargo xtask fuzz` takes its time.
const FUZZ_SECONDS: u64 = 5;

/// What to test.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only tests whose names contain PATTERN, and no lint
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Run only end-to-end tests, with this datapath; may be given more than once [default: all tests with sockmap]
    ///
    /// By default the tests of transfers also run with copy. Those of the contract also run with local, packet and auto.
    #[arg(long, value_name = "KIND")]
    datapath: Vec<Datapath>,
    /// Run only tests on other kernels, in a virtual machine: the newest kernel of each named suite of Debian
    ///
    /// A named kernel gets more tests, and a row in the table of docs/kernel.md. "all" names all suites. Without a name the
    /// kernels of `cargo xtask test` are used, with its few tests.
    #[arg(long, value_name = "KERNEL", num_args = 0..)]
    #[arg(value_parser = PossibleValuesParser::new(setup::KERNELS.into_iter().chain([ALL_KERNELS])))]
    #[arg(conflicts_with_all = ["datapath", "soak", "soak_idle"])]
    guest: Option<Vec<String>>,
    /// Run only tests of offloaded connections over network cards, in a virtual machine; writes docs/cards.md
    ///
    /// NAME selects combinations; without a name all are tested. `--guest` selects the kernels [default: trixie, Linux 6.12].
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["only", "datapath", "soak", "soak_idle"])]
    cards: Option<Vec<String>>,
    /// MiB that the tests on named kernels send each way with each datapath (on this machine: a GiB)
    #[arg(long, value_name = "MIB", requires = "guest", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    bulk: u32,
    /// Run only the scripts of the contract for this time, with fresh seeds, also on a lossy network; stop at the first failure
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["only", "datapath"])]
    soak: Option<f64>,
    /// Hold 9,000 idle offloaded connections for this time while three threads load the processors; stop at the tenth failure
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["only", "datapath", "soak"])]
    soak_idle: Option<f64>,
}

/// What the end-to-end tests tell the daemon to carry flows with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Datapath {
    /// Offloaded: BPF programs translate packets
    Packet,
    /// The daemon chooses
    Auto,
    /// Sockmap that also bypasses the loopback connection of a server on the same host
    Local,
    /// Spliced in the kernel
    Sockmap,
    /// Copied in userspace
    Copy,
}

/// Runs all stages. A failing one does not keep the later ones from running, except the build. True when none
/// failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(minutes) = options.soak {
        return soak::run(soak::SCRIPTS, minutes).map(|()| true);
    }
    if let Some(minutes) = options.soak_idle {
        return soak::run(soak::IDLE, minutes).map(|()| true);
    }
    privilege::unlock("run the end-to-end tests")?;
    let mut stages = vec![one("setup", || set_up(options)), one("build", build::all)];
    if stages.last().is_some_and(|build| !build.failed.is_empty()) {
        let skipped = vec!["lint, unit and end-to-end tests, since there is no build to test".to_owned()];
        stages.push(Stage { name: "the rest".to_owned(), skipped, ..Stage::default() });
    } else if let Some(names) = &options.cards {
        let named = kernels::named(options.guest.as_deref().unwrap_or_default());
        for kernel in if named.is_empty() { vec![cards::KERNEL] } else { named } {
            stages.push(kernel_log::around(|| cards::stage(kernel, names, options)));
        }
    } else if let Some(named) = &options.guest {
        stages.extend(kernels::stages(named, options));
    } else {
        stages.push(lint_stage(options));
        stages.extend(options.only.is_none().then(|| kernel_log::around(fuzz_stage)));
        stages.extend(test_stages(options));
    }
    println!("{}", summary::render(&stages));
    Ok(summary::is_good(&stages))
}

/// Everything that the later stages need and that a build does not install for itself.
fn set_up(options: &Options) -> Result<()> {
    setup::for_tests()?;
    if options.only.is_none() {
        setup::for_lint()?;
    }
    Ok(())
}

fn test_stages(options: &Options) -> Vec<Stage> {
    let mut stages = vec![kernel_log::around(|| tests("unit", unit(options), options))];
    let mut all = match programs() {
        Ok(all) => all,
        Err(error) => {
            let failed = vec![format!("{error:#}")];
            stages.push(Stage { name: "end-to-end".to_owned(), failed, ..Stage::default() });
            return stages;
        }
    };
    let mut add = |what: &str, programs: &[String], datapath: Datapath| {
        let name = format!("{what} ({})", datapath.name());
        let commands = vec![end_to_end(programs, datapath, options)];
        stages.push(kernel_log::around(|| tests(&name, commands, options)));
    };
    let chosen = match options.datapath.as_slice() {
        [] => &[Datapath::Sockmap, Datapath::Copy],
        chosen => chosen,
    };
    for &datapath in chosen {
        add("end-to-end", &all, datapath);
        // What carries no bytes does not differ between the two.
        if options.datapath.is_empty() {
            all.retain(|program| !ANYHOW.contains(&program.as_str()));
        }
    }
    if options.datapath.is_empty() {
        add("without sockets", &[PACKET.to_owned()], Datapath::Packet);
        // What is not about carrying bytes does not differ here.
        for datapath in [Datapath::Local, Datapath::Packet, Datapath::Auto] {
            add("contract", &["contract".to_owned()], datapath);
        }
    }
    if options.datapath.is_empty() && options.only.is_none() {
        stages.extend(kernels::stages(&[], options));
    }
    // With `--only` a stage may be empty, but not all of them.
    if options.only.is_some() && stages.iter().all(|stage| stage.ran() == 0) {
        let failed = vec!["no test has a name that contains it".to_owned()];
        stages.push(Stage { name: "--only".to_owned(), failed, ..Stage::default() });
    }
    stages
}

impl Datapath {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A stage that is one piece of work.
fn one(name: &str, work: impl FnOnce() -> Result<()>) -> Stage {
    let began = Instant::now();
    let mut stage = Stage { name: name.to_owned(), ..Stage::default() };
    match work() {
        Ok(()) => stage.passed = 1,
        Err(error) => stage.failed.push(format!("{error:#}")),
    }
    stage.took = began.elapsed();
    stage
}

fn lint_stage(options: &Options) -> Stage {
    let began = Instant::now();
    let mut stage = Stage { name: "lint".to_owned(), ..Stage::default() };
    if options.only.is_some() {
        stage.skipped.push("all of it, since --only was given".to_owned());
        return stage;
    }
    for check in lint::checks() {
        match check.verdict {
            Verdict::Passed => stage.passed += 1,
            Verdict::Failed(what) => {
                println!("{} said:\n{what}", check.name);
                stage.failed.push(check.name.to_owned());
            }
            Verdict::Skipped(why) => stage.skipped.push(format!("{}: {why}", check.name)),
        }
    }
    stage.took = began.elapsed();
    stage
}

fn fuzz_stage() -> Stage {
    let began = Instant::now();
    let (passed, failed) = match fuzz::all(FUZZ_SECONDS) {
        Ok(played) => played,
        Err(error) => (0, vec![format!("{error:#}")]),
    };
    Stage { name: "fuzz".to_owned(), passed, failed, took: began.elapsed(), ..Stage::default() }
}

/// Unit and property tests of the host's crates, and those of the harness itself.
fn unit(options: &Options) -> Vec<Command> {
    let mut crates = cargo_test(&["--workspace"]);
    crates.args(["--exclude", "proxy-ebpf", "--exclude", "snisplice-tests", "--exclude", "snisplice-fuzz"]);
    let mut harness = cargo_test(&["--package", "snisplice-tests", "--lib", "--bins"]);
    for command in [&mut crates, &mut harness] {
        command.args(["--", "--show-output"]).args(&options.only);
    }
    vec![crates, harness]
}

/// The names of all end-to-end test programs but [`PACKET`], [`OLD_KERNEL`] and [`cards::PROGRAM`].
fn programs() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace::root().join("tests/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "rs") || path.join("main.rs").exists() {
            names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
        }
    }
    names.retain(|name| ![PACKET, OLD_KERNEL, cards::PROGRAM].contains(&name.as_str()));
    names.sort();
    ensure!(!names.is_empty(), "tests/tests has no program");
    Ok(names)
}

/// End-to-end test programs, as root: they make network namespaces and load BPF programs.
fn end_to_end(programs: &[String], datapath: Datapath, options: &Options) -> Command {
    let mut command = cargo_test(&["--package", "snisplice-tests"]);
    command.args(programs.iter().flat_map(|program| ["--test", program]));
    let runner = privilege::prefix();
    if !runner.is_empty() {
        // The compiler needs no root, so that only the test programs get it.
        let quoted: Vec<String> = runner.iter().map(|word| format!("'{word}'")).collect();
        command.arg("--config").arg(format!("target.'cfg(unix)'.runner = [{}]", quoted.join(", ")));
    }
    command.args(["--", "--show-output", "--test-threads", THREADS]).args(&options.only);
    command.env("SNISPLICE_BIN", workspace::daemon());
    match datapath {
        Datapath::Auto => command.env_remove("SNISPLICE_TEST_DATAPATH"),
        kind => command.env("SNISPLICE_TEST_DATAPATH", kind.name()),
    };
    command
}

fn cargo_test(selection: &[&str]) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-fail-fast"]).args(workspace::locked()).args(selection);
    cargo
}
