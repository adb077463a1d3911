//! Time: waiting for something to become true, with a bound, and peers that are slow.

use std::panic::Location;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The bound of a step that takes milliseconds on an idle machine: long enough for a busy one.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `probe` again and again until it answers, and returns the answer.
///
/// `what` completes the sentence "waited 10 s for ...".
///
/// # Errors
/// When `probe` has not answered within `limit`; the message names the place of the call.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let caller = Location::caller();
    let start = Instant::now();
    let limit = limit * slowness();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if start.elapsed() >= limit {
            bail!("waited {limit:?} for {what} in vain ({}:{})", caller.file(), caller.line());
        }
        thread::sleep(PAUSE); // poll interval: fine enough to see a daemon that answers within milliseconds
    }
}

/// How many times as long as usual everything may take: `SNISPLICE_TEST_SLOWNESS`, for machines that are computed.
#[must_use]
pub fn slowness() -> u32 {
    std::env::var("SNISPLICE_TEST_SLOWNESS").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Makes a peer slow: part of what it does, never a way to wait for somebody else.
pub fn dawdle(pause: Duration) {
    thread::sleep(pause); // poll interval: none, the pace of a scripted peer
}
