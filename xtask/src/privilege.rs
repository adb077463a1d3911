//! Who we are, and how to become root for one command.

use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal, stdin};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::console;
use crate::workspace::which;

/// What the test programs and the daemon may know of our environment when sudo starts them.
const KEPT: &str =
    "--preserve-env=RUST_BACKTRACE,RUST_LOG,SNISPLICE_BIN,SNISPLICE_TEST_DATAPATH,SNISPLICE_TEST_SEED";

/// True when this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// True when a command can be run as root: we are, or there is a sudo to ask.
pub(crate) fn can_be_root() -> bool {
    is_root() || which("sudo").is_some()
}

/// The words to put before a command so that it runs as root; none when we are root already.
pub(crate) fn prefix() -> Vec<String> {
    if is_root() { Vec::new() } else { ["sudo", KEPT].map(str::to_owned).to_vec() }
}

/// A command that runs as root.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    match prefix().split_first() {
        None => Command::new(program),
        Some((sudo, options)) => {
            let mut command = Command::new(sudo);
            command.args(options).arg(program);
            command
        }
    }
}

/// Lets sudo ask for its password now, before a step hides the terminal. `why` completes "root is needed to".
pub(crate) fn unlock(why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if which("sudo").is_none() {
        bail!("root is needed to {why}\n  remedy: run this command as root, or install sudo");
    }
    let silent =
        Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    if silent.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    if !stdin().is_terminal() {
        bail!("root is needed to {why}, and sudo wants a password\n  remedy: run this command as root");
    }
    console::say(&format!("root is needed to {why}: sudo may ask for your password"));
    let status = Command::new("sudo").arg("-v").status().context("cannot start sudo")?;
    if !status.success() {
        bail!("root is needed to {why}, and sudo refused\n  remedy: run this command as root");
    }
    Ok(())
}
