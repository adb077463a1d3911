//! `cargo xtask`: everything that a developer or a build machine does with this repository.
//!
//! One file per command. What a command needs is looked for first and installed if it is missing, and each
//! failure names the way out.

mod bench;
mod build;
mod console;
mod demo;
mod fuzz;

mod lint;
mod privilege;
mod process;
mod rules;
mod run;
mod setup;
mod test;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run, show, check and test snisplice.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install the tools that the other commands need
    Setup {
        /// Only report; exit 1 if something is missing
        #[arg(long)]
        check: bool,
    },
    /// Build the BPF objects and the daemon (target/release/snisplice)
    Build {
        /// No effect: the build is always a release build
        #[arg(long)]
        release: bool,
    },
    /// Build, then run the daemon in this terminal (as root, or with sudo)
    Run {
        /// Arguments of `snisplice run`; without any it uses its embedded configuration
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Build, then demonstrate snisplice on this machine (as root, or with sudo)
    Demo {
        /// Arguments of the demo
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Build, then compare with other proxies on this machine (as root, or with sudo); `bench guard` measures the guard
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz what parses bytes from the network, guided by code coverage
    Fuzz(fuzz::Options),
    /// Check formatting, clippy, the project rules, licences and advisories
    Lint {
        /// Check only the project rules, in another checkout, and count the findings of each rule
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
    },
    /// Run everything that checks this tree: build, lint, unit tests and end-to-end tests
    Test(test::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Setup { check: true } => Ok(setup::check()),
        Task::Setup { check: false } => Ok(setup::install()),
        Task::Build { release: _ } => build::all().map(|()| true),
        Task::Run { args } => run::run(&args).map(|()| true),
        Task::Demo { args } => demo::run(&args).map(|()| true),
        Task::Bench { args } => bench::run(&args).map(|()| true),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Lint { tree: Some(tree) } => lint::other_tree(&tree),
        Task::Lint { tree: None } => Ok(lint::run()),
        Task::Test(options) => test::run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{} {error:#}", console::paint(console::Tone::Bad, "error:"));
            ExitCode::FAILURE
        }
    }
}
