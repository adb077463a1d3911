//! The life of the daemon, from the flows' point of view.

use tokio::sync::watch;

/// Phases only ever advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connections are accepted.
    Running,
    /// No more of them; flows go on to their own ends.
    Draining,
    /// Flows that are left end now.
    Closing,
    /// Workers return.
    Stopped,
}

/// Announces the phase to all who care.
pub(crate) struct Phases(watch::Sender<Phase>);

impl Phases {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    /// Moves on to `phase`. Moving back is ignored.
    pub(crate) fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    pub(crate) fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns once `phase` or a later one is reached.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}
