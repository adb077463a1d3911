//! What the daemon says of its guard.
#![expect(missing_docs, reason = "the fields are those of the interface, which docs/ describes")]

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Program;
use crate::command::{Finished, run};
use crate::daemon::{Daemon, cli};
use crate::deadline::{PATIENCE, wait_for};

/// `/api/v1/guard`
#[derive(Debug, Clone, Deserialize)]
pub struct Guard {
    pub dry_run: bool,
    pub program: u32,
    pub interfaces: Vec<GuardInterface>,
    pub deny_file: u64,
    pub bans: u64,
    pub sources: u64,
    pub packets: Vec<Packets>,
    pub bans_made: Vec<Count>,
    pub bans_refused: Vec<Count>,
    pub list: Vec<Listed>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GuardInterface {
    pub name: String,
    pub mode: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Packets {
    pub verdict: String,
    pub reason: String,
    pub count: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Count {
    pub reason: String,
    pub count: u64,
}

/// One ban.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    pub net: String,
    pub reason: String,
    pub seconds_left: Option<u64>,
}

impl Guard {
    /// Asks the daemon.
    ///
    /// # Errors
    /// When it has no guard.
    pub fn of(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.get("/api/v1/guard")?;
        ensure!(answer.status == 200, "{answer:?}");
        serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
    }

    /// Waits until it is so.
    ///
    /// # Errors
    /// When it is not within 10 s.
    #[track_caller]
    pub fn wait(daemon: &Daemon, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<Self> {
        let found = wait_for(what, PATIENCE, || Self::of(daemon).ok().filter(&is_so));
        found.with_context(|| format!("{:?}", Self::of(daemon)))
    }

    /// Waits until it is attached to an interface, and returns the mode.
    ///
    /// # Errors
    /// When it is not within 10 s.
    #[track_caller]
    pub fn attached(daemon: &Daemon, interface: &str) -> Result<String> {
        let guard = Self::wait(daemon, "the guard to be attached", |guard| guard.mode(interface).is_some())?;
        guard.mode(interface).context("no mode")
    }

    /// The mode in which it is attached.
    pub fn mode(&self, interface: &str) -> Option<String> {
        self.interfaces.iter().find(|one| one.name == interface)?.mode.clone()
    }

    /// Packets of one verdict and reason.
    pub fn count(&self, verdict: &str, reason: &str) -> u64 {
        let of = |packets: &&Packets| packets.verdict == verdict && packets.reason == reason;
        self.packets.iter().filter(of).map(|packets| packets.count).sum()
    }

    /// The loaded program.
    ///
    /// # Errors
    /// When it is gone.
    pub fn program(&self) -> Result<Program> {
        Ok(Program::open(self.program)?)
    }

    /// Runs `snisplice guard` for a daemon.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn command(daemon: &Daemon, arguments: &[&str]) -> Result<Finished> {
        let socket = daemon.admin_socket().display().to_string();
        run(cli(&["guard"])?.args(arguments).args(["--socket", &socket]), b"")
    }
}
