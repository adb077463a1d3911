//! Another configuration for a daemon that runs: who takes which change.

use super::Daemon;
use crate::control::config::{Change, Part, diff};
use crate::front::{self, BindError, Sockets};
use crate::hub::snapshot::Snapshot;

/// Why the daemon keeps the configuration that it has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot start the look-up of names: {0}")]
    Names(std::io::Error),
    #[error("restart the daemon for this change: {}", list(.0))]
    NeedsRestart(Vec<Change>),
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What has a state of its own that is made from the configuration. Whatever is not named here reads the snapshot of its
/// connection, or the current one each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    /// Opens and closes listening sockets.
    Listeners,
    /// Has the series of each listener.
    Meters,
    /// Knows the names of servers, and looks them up.
    Names,
    /// Counts the connections of each source.
    SourceLimits,
    /// Tells the kernel when an offloaded connection is over.
    KernelTimer,
    /// Cannot take a change while it runs.
    Restart,
}

/// The one list of who takes what.
const fn takers(change: &Change) -> &'static [Taker] {
    match change.part {
        Part::Listener(_) => &[Taker::Listeners, Taker::Meters],
        // New connections go by the new snapshot.
        Part::Route(_) => &[],
        Part::Upstream(_) => &[Taker::Names],
        Part::Timeouts => &[Taker::KernelTimer],
        // The budget of memory is read each second.
        Part::Limits => &[Taker::SourceLimits],
        // The guard is loaded with its rates; its attachments and the admin sockets belong to the process.
        Part::Guard | Part::Packet | Part::Admin => &[Taker::Restart],
    }
}

impl Daemon {
    /// Goes by another configuration from now on. Established connections keep theirs.
    ///
    /// # Errors
    /// A part of it cannot be taken. Then nothing has changed.
    #[cfg_attr(not(test), expect(dead_code, reason = "no command calls it yet"))]
    pub(super) fn reload(&mut self, next: Snapshot) -> Result<Vec<Change>, ReloadError> {
        let changes = diff(&self.hub.config.current(), &next);
        let (restart, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| takers(change).contains(&Taker::Restart));
        if !restart.is_empty() {
            return Err(ReloadError::NeedsRestart(restart));
        }
        let concerns = |taker| others.iter().any(|change| takers(change).contains(&taker));
        if concerns(Taker::Names) {
            // First, since it does no harm if another part fails.
            self.hub.names.add(&next.upstreams);
            front::start_resolver(&self.hub).map_err(ReloadError::Names)?;
        }
        if concerns(Taker::Listeners) {
            self.listeners.follow(&next, Sockets::new())?;
        }
        if others.is_empty() {
            return Ok(others);
        }
        let config = self.hub.config.replace(next);
        if concerns(Taker::Meters) {
            config.listeners.iter().for_each(|listener| self.hub.meters.know_listener(&listener.name));
        }
        if concerns(Taker::SourceLimits) {
            self.hub.source_limits.follow(&config);
        }
        if concerns(Taker::KernelTimer)
            && let Some(packet) = self.packet.as_ref().or(self.left.get())
            && let Err(error) = packet.tend_within(&config.timeouts)
        {
            tracing::warn!(%error, "the kernel's timer for offloaded connections keeps the limits that it has");
        }
        Ok(others)
    }
}
