//! The contract that every datapath keeps, law by law. The datapath is that of `SNISPLICE_TEST_DATAPATH`; which there are, and
//! how each proves that it carried the bytes, is in `harness::carrier`.
//!
//! 1. Every byte arrives once, in order, in both directions.
//! 2. The end of one side becomes the end of the other after its last byte; the other direction lives on.
//! 3. A reset becomes a reset; bytes that were received before it are delivered where TCP would.
//! 4. A reader that stops bounds the memory that is held for its flow, and stops only its own flow.
//! 5. Bytes in the log, the metrics and the admin interface are those that the peers counted.
//! 6. Nothing is left behind: no flow, descriptor, map entry.
//! 7. A drain ends flows within its bound, and a daemon that is killed resets them.
//! 8. Timers see the bytes that the kernel carries.
//! 9. Scripts of writes, pauses, half-closes and resets are seen by the peers as under copy.
//!
//! Law 10, that no input breaks the daemon, is in `hello.rs` and `routing.rs`.

mod backpressure;
mod budget;
mod bytes;
mod crafted;
mod ends;
mod kill;
mod scripts;
mod stop;
mod timers;
mod urgent;
mod wakes;

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use harness::carrier::Carrier;
use harness::daemon::Config;
use harness::site::{RawSite, config_of};

/// A site whose flows are carried by the datapath under test.
fn site() -> Result<RawSite> {
    site_with(|config| config)
}

/// The same, with a part of the configuration changed.
fn site_with(change: impl FnOnce(Config) -> Config) -> Result<RawSite> {
    let carrier = Carrier::of_environment()?;
    RawSite::of(&carrier, &change(config_of(&carrier)))
}

/// Held by a test that measures the machine's memory, or that takes hundreds of MiB of it: one at a time.
static MEMORY: Mutex<()> = Mutex::new(());

/// Waits until no other test needs the machine's memory for itself.
fn memory_alone() -> MutexGuard<'static, ()> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}
