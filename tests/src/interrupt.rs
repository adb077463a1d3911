//! Ctrl-C in programs that make network namespaces.

use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use crate::{netns, workdir};

/// Held by whoever ends the process, until it is gone.
static END: Mutex<()> = Mutex::new(());

/// Removes this process's namespaces and files on Ctrl-C, and ends it with code 130. What it has started ends with it. To be called
/// before any thread is started.
///
/// # Errors
/// What the system reports.
pub fn clean_up() -> Result<()> {
    netns::block_interrupt()?;
    thread::spawn(|| {
        if netns::wait_for_interrupt().is_ok() {
            let _end = END.lock().unwrap_or_else(PoisonError::into_inner);
            drop((netns::remove_own(), workdir::remove_own()));
            process::exit(130);
        }
    });
    Ok(())
}

/// To be called before a failure is reported. Does not return after Ctrl-C: whose namespaces vanish fails for no other reason.
pub fn give_way() {
    drop(END.lock().unwrap_or_else(PoisonError::into_inner));
}
