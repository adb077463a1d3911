//! The signals that mean something to the daemon, and those that do not: these end nothing.

use std::collections::BTreeMap;
use std::io;

use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::hub::LogThrottle;
use crate::sys;

/// All that can be sent to us without ending us at once.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stray: AsyncFd<sys::Signals>,
    /// By the signal's name: a timer that somebody has set sends one after the other.
    said: BTreeMap<String, LogThrottle>,
}

impl Signals {
    /// Must run inside the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stray: sys::readable(sys::Signals::open()?)?,
            said: BTreeMap::new(),
        })
    }

    /// Returns on SIGTERM or SIGINT.
    pub(crate) async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP ignored: the configuration is read at start only; restart to change it");
                }
                Ok(mut ready) = self.stray.readable() => {
                    while let Some(stray) = ready.get_inner().next() {
                        say(&mut self.said, &stray);
                    }
                    ready.clear_ready();
                }
            }
        }
    }
}

fn say(said: &mut BTreeMap<String, LogThrottle>, stray: &sys::Stray) {
    let sys::Stray { name, sender } = stray;
    if !said.entry(name.clone()).or_default().is_due() {
        return;
    }
    let from = match sender {
        Some((process, user)) => format!("process {process}{} of user {user}", program(*process)),
        None => "the kernel".to_owned(),
    };
    if name == "SIGUSR1" {
        tracing::info!(%from, "SIGUSR1: there is no log file to reopen, the log goes to stderr");
    } else {
        tracing::warn!(%from, "{name} ignored: it means nothing to snisplice");
    }
}

/// The name of a process's program, if it still runs. It has chosen it itself.
fn program(process: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let name = name.trim_end().escape_debug().to_string();
    if name.is_empty() { name } else { format!(" ({name})") }
}
