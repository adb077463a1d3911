//! `test --soak` and `test --soak-idle`: what takes as much time as it is given.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege, process, run, setup, workspace};

/// The contract's scripts with fresh seeds.
pub(super) const SCRIPTS: &str = "snisplice-soak";

/// Thousands of offloaded connections on a busy machine.
pub(super) const IDLE: &str = "snisplice-soak-idle";

/// Builds the daemon and one of the two programs, and becomes that program.
pub(super) fn run(program: &str, minutes: f64) -> Result<()> {
    setup::for_tests()?;
    build::all()?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "snisplice-tests", "--bin", program]).args(workspace::locked());
    process::step(&format!("build {program}"), &mut cargo, "correct tests/ as the compiler says")?;
    privilege::unlock("make network namespaces and load BPF programs")?;
    let minutes = [OsString::from("--minutes"), minutes.to_string().into()];
    let binary = [OsString::from("--snisplice"), workspace::daemon().into()];
    run::become_root(&workspace::target().join("debug").join(program), minutes.iter().chain(&binary))
}
