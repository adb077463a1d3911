//! `demo`: shows the whole thing at work, in network namespaces of its own.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege, process, run, setup, workspace};

/// Builds the daemon and the demo, and becomes the demo.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::for_tests()?;
    build::all()?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--package", "snisplice-tests", "--bin", "snisplice-demo"])
        .args(workspace::locked());
    process::step("build the demo", &mut cargo, "fix the errors that the compiler reports in tests/")?;
    privilege::unlock("make network namespaces and load BPF programs")?;
    let fixed = [OsString::from("--snisplice"), workspace::daemon().into()];
    run::become_root(&workspace::target().join("debug/snisplice-demo"), fixed.iter().chain(args))
}
