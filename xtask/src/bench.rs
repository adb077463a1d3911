//! `bench`: compares snisplice with no proxy and with other proxies, in network namespaces of its own.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege, process, run, setup, workspace};

/// Builds the daemon and the benchmark, finds the other proxies, and becomes the benchmark.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::for_tests()?;
    let rivals = setup::for_bench();
    build::all()?;
    let mut cargo = workspace::cargo();
    // Optimised: the load generator must not be what limits the figures.
    cargo
        .args(["build", "--release", "--package", "snisplice-tests", "--bin", "snisplice-bench"])
        .args(workspace::locked());
    process::step("build the benchmark", &mut cargo, "mend tests/ as the compiler says")?;
    privilege::unlock("make network namespaces and load BPF programs")?;
    let mut fixed = vec![OsString::from("--snisplice"), workspace::daemon().into()];
    if let Some(rivals) = rivals {
        fixed.extend([OsString::from("--rivals"), rivals.into()]);
    }
    run::become_root(&workspace::target().join("release/snisplice-bench"), fixed.iter().chain(args))
}
