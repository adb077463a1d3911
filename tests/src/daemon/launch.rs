//! Starting the daemon.

use std::io::{BufRead as _, BufReader, PipeReader, Read, pipe};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::pipe::fcntl_setpipe_size;

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

/// The smallest pipe that there is, in bytes.
const SMALL_PIPE: usize = 4096;

/// The capability to send segments of connections without sockets, taken away.
pub const WITHOUT_RAW: [&str; 2] = ["setpriv", "--bounding-set=-net_raw"];

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: PathBuf,
    wrapper: Vec<&'static str>,
    quiet: bool,
    level: &'static str,
    release: bool,
    unread: bool,
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
        Self {
            binary,
            wrapper: Vec::new(),
            quiet: false,
            level: "info",
            release: false,
            unread: false,
            patience: PATIENCE,
        }
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

    /// Its log is a pipe of 4 KiB that nobody reads before [`Daemon::read_log`].
    #[must_use]
    pub fn unread(self) -> Self {
        Self { unread: true, ..self }
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
        let (log_end, stderr) = pipe()?;
        if self.unread {
            fcntl_setpipe_size(&log_end, SMALL_PIPE)?;
        }
        let [program, arguments @ ..] = &DIE_WITH_PARENT;
        let child = edge
            .command(program)
            .args(arguments)
            .args(&self.wrapper)
            .arg(&self.binary)
            .args(["run", "--log-format", "json", "--log-level", self.level, "--config"])
            .arg(file)
            .args(self.release.then_some("--release"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C is for the tests, which then end the daemon.
            .process_group(0)
            .spawn()?;
        let mut daemon = Daemon {
            child,
            edge: edge.clone(),
            log: Arc::default(),
            log_end: Some(log_end),
            log_reader: None,
            work,
            quiet: self.quiet,
            pins,
        };
        if !self.unread {
            daemon.read_log();
        }
        Ok(daemon)
    }
}

pub(super) fn collect_log(log_end: PipeReader, log: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || collect_lines(log_end, &log))
}

fn collect_lines(pipe: impl Read, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
