//! `bench`: compares snisplice with no proxy and with other proxies, in network namespaces of its own. `bench guard`: the same for
//! the guard, with programs that do nothing and with nftables. `bench packet`: what flows without sockets cost.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, privilege, process, run, setup, workspace};

/// First arguments of the benchmarks of parts.
const GUARD: &str = "guard";
const PACKET: &str = "packet";

/// Builds the daemon and the benchmark, finds the others, and becomes the benchmark.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::for_tests()?;
    let (program, rivals, args) = match args {
        [first, rest @ ..] if first == GUARD => ("snisplice-bench-guard", setup::for_guard_bench(), rest),
        [first, rest @ ..] if first == PACKET => ("snisplice-bench-packet", None, rest),
        _ => ("snisplice-bench", setup::for_bench(), args),
    };
    build::all()?;
    let mut cargo = workspace::cargo();
    // Optimised: the load generator must not be what limits the figures.
    cargo
        .args(["build", "--release", "--package", "snisplice-tests", "--bin", program])
        .args(workspace::locked());
    process::step("build the benchmark", &mut cargo, "fix the errors that the compiler reports in tests/")?;
    privilege::unlock("make network namespaces and load BPF programs")?;
    let mut fixed = vec![OsString::from("--snisplice"), workspace::daemon().into()];
    if let Some(rivals) = rivals {
        fixed.extend([OsString::from("--rivals"), rivals.into()]);
    }
    run::become_root(&workspace::target().join("release").join(program), fixed.iter().chain(args))
}
