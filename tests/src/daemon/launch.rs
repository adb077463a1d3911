//! Starting the daemon.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::{Config, Daemon};
use crate::command::snisplice;
use crate::deadline::{PATIENCE, wait_for};
use crate::netns::Namespace;
use crate::pins::Pins;
use crate::workdir::WorkDir;

/// Kills the daemon when the thread that started it is gone, also if that thread could not clean up.
const DIE_WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// The capabilities that BPF needs, taken away: what a daemon in a locked-down container has.
pub const WITHOUT_BPF: [&str; 2] = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin,-perfmon"];

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: PathBuf,
    wrapper: Vec<&'static str>,
    quiet: bool,
    level: &'static str,
    release: bool,
    patience: Duration,
}

impl Launch {
    /// The binary under test.
    ///
    /// # Errors
    /// When there is none.
    pub fn new() -> Result<Self> {
        Ok(Self::of(snisplice()?))
    }

    /// This binary.
    pub fn of(binary: PathBuf) -> Self {
        Self { binary, wrapper: Vec::new(), quiet: false, level: "info", release: false, patience: PATIENCE }
    }

    /// Starts it by a command such as `setpriv` with arguments.
    #[must_use]
    pub fn under(self, wrapper: &[&'static str]) -> Self {
        Self { wrapper: wrapper.to_vec(), ..self }
    }

    /// Does not print the daemon's log in the end.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// Logs warnings and errors only, no access records: what a connection costs is then its own.
    #[must_use]
    pub fn terse(self) -> Self {
        Self { level: "warn", ..self }
    }

    /// Logs at debug level, and lets the BPF programs log too.
    #[must_use]
    pub fn verbose(self) -> Self {
        Self { level: "debug", ..self }
    }

    /// No flow outlives it.
    #[must_use]
    pub fn release(self) -> Self {
        Self { release: true, ..self }
    }

    /// Gives it so long to become ready.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Starts the daemon in `edge` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready within 10 s, or what [`Self::patient`] says; the message holds its log.
    pub fn start(&self, edge: &Namespace, config: &Config) -> Result<Daemon> {
        let mut daemon = self.spawn(edge, config)?;
        let ready = wait_for("the daemon to become ready", self.patience, || {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Some(Err(anyhow!("the daemon ended at its start: {status}")));
            }
            daemon.get("/readyz").is_ok_and(|answer| answer.status == 200).then_some(Ok(()))
        });
        ready.and_then(|started| started).with_context(|| daemon.log_text())?;
        Ok(daemon)
    }

    fn spawn(&self, edge: &Namespace, config: &Config) -> Result<Daemon> {
        let work = WorkDir::create()?;
        let pins = if config.lacks_pins() { Some(Pins::create()?) } else { None };
        let config = match &pins {
            Some(pins) => &config.with_pins(pins),
            None => config,
        };
        let file = work.write("snisplice.toml", config.render(&work.file("admin.sock")))?;
        let [program, arguments @ ..] = &DIE_WITH_PARENT;
        let mut child = edge
            .command(program)
            .args(arguments)
            .args(&self.wrapper)
            .arg(&self.binary)
            .args(["run", "--log-format", "json", "--log-level", self.level, "--config"])
            .arg(file)
            .args(self.release.then_some("--release"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the tests, which then end the daemon.
            .process_group(0)
            .spawn()?;
        let log = Arc::default();
        let log_reader = collect_log(&mut child, &log);
        Ok(Daemon { child, edge: edge.clone(), log, log_reader, work, quiet: self.quiet, pins })
    }
}

fn collect_log(child: &mut Child, log: &Arc<Mutex<Vec<String>>>) -> Option<JoinHandle<()>> {
    let pipe = child.stderr.take()?;
    let log = Arc::clone(log);
    Some(thread::spawn(move || collect_lines(pipe, &log)))
}

fn collect_lines(pipe: impl Read, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
