//! The current configuration. A reload replaces it as a whole; a connection keeps its snapshot.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::snapshot::Snapshot;

/// The snapshot that new connections get.
pub(crate) struct ConfigStore {
    current: ArcSwap<Snapshot>,
}

impl ConfigStore {
    /// The first snapshot has epoch 1.
    pub(super) fn new(mut first: Snapshot) -> Self {
        first.epoch = 1;
        Self { current: ArcSwap::from_pointee(first) }
    }

    /// The current snapshot. A connection asks once, when it is accepted.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts the next snapshot into use: its epoch is one more than the last one's. Only one thread does so at a time.
    pub(crate) fn replace(&self, mut next: Snapshot) -> Arc<Snapshot> {
        next.epoch = self.current.load().epoch + 1;
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        next
    }
}
