//! `test --soak`: the contract's scripts with fresh seeds, until the time is over.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege, process, run, setup, workspace};

/// Builds the daemon and the soak, and becomes the soak.
pub(super) fn run(minutes: f64) -> Result<()> {
    setup::for_tests()?;
    build::all()?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--package", "snisplice-tests", "--bin", "snisplice-soak"])
        .args(workspace::locked());
    process::step("build the soak", &mut cargo, "mend tests/ as the compiler says")?;
    privilege::unlock("make network namespaces and load BPF programs")?;
    let minutes = [OsString::from("--minutes"), minutes.to_string().into()];
    let binary = [OsString::from("--snisplice"), workspace::daemon().into()];
    run::become_root(&workspace::target().join("debug/snisplice-soak"), minutes.iter().chain(&binary))
}
