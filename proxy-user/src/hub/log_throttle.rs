//! What an operator is told once, and not for each of a million connections.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines on the same matter.
const EVERY: Duration = Duration::from_secs(10);

/// One matter.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// One that was never said.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether it is time to say it, or to say it again. Whoever is told so does.
    pub(crate) fn is_due(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = said.is_none_or(|at| at.elapsed() >= EVERY);
        if due {
            *said = Some(Instant::now());
        }
        due
    }
}
