//! `run`: the daemon, in this terminal.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, console, privilege, workspace};

/// Builds the daemon and becomes it.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    build::all()?;
    privilege::unlock("listen on port 443 and load BPF programs")?;
    become_root(&workspace::daemon(), [OsString::from("run")].iter().chain(args))
}

/// Replaces this process by `program`, with sudo if we are not root, so that signals reach it.
pub(crate) fn become_root<'a>(program: &Path, args: impl Iterator<Item = &'a OsString>) -> Result<()> {
    if !privilege::is_root() {
        console::say(&format!("sudo runs {}", program.display()));
    }
    let mut command: Command = privilege::as_root(program);
    Err(command.args(args).exec()).with_context(|| format!("cannot start {}", program.display()))
}
