//! Runs a program for which system calls are refused with EPERM, as a profile of a container does.
//!
//! `snisplice-refused bpf PROGRAM ARGUMENT...`

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let call = arguments.next().context("which system call?")?;
    ensure!(call == "bpf", "{} is not known here", call.display());
    let program = arguments.next().context("which program?")?;
    harness::wire::refuse_bpf().context("setting a seccomp filter")?;
    bail!("cannot start {}: {}", program.display(), Command::new(&program).args(arguments).exec())
}
