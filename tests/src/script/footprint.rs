//! What a daemon holds: descriptors, flows, entries of maps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemon::Daemon;
use crate::deadline::{PATIENCE, wait_for};
use crate::netns::map_entries;

/// Map types (`enum bpf_map_type`) whose entries stand for flows.
const HASH: u32 = 1;
const SOCKHASH: u32 = 18;

/// What a daemon holds besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors, without those of pipes: workers keep some of these for the next flow.
    pub descriptors: usize,
    /// Entries of its BPF hash maps.
    pub map_entries: usize,
    /// Listed flows.
    pub flows: usize,
}

impl Footprint {
    /// Waits until `daemon` holds no more than this, but for entries of maps, which are those of flows that are over.
    ///
    /// # Errors
    /// When it still does after 10 s.
    #[track_caller]
    pub fn wait_for_all_but_entries(self, daemon: &Daemon) -> Result<()> {
        wait_for(&format!("the daemon to be back at {self:?}, but for entries"), PATIENCE, || {
            let held = footprint(daemon).ok()?;
            (Self { map_entries: self.map_entries, ..held } == self).then_some(())
        })
        .map_err(|error| error.context(format!("{:?}", footprint(daemon))))
    }

    /// Waits until `daemon` holds no more than this.
    ///
    /// # Errors
    /// When it still does after 10 s.
    #[track_caller]
    pub fn wait_for(self, daemon: &Daemon) -> Result<()> {
        wait_for(&format!("the daemon to be back at {self:?}"), PATIENCE, || {
            (footprint(daemon).ok()? == self).then_some(())
        })
        .map_err(|error| error.context(format!("{:?}", footprint(daemon))))
    }
}

/// Ends of pipes that an idle daemon may have: 16 pipes for each worker, and its standard streams.
fn most_pipes() -> Result<usize> {
    Ok(2 * 16 * std::thread::available_parallelism()?.get() + 3)
}

/// Waits until `daemon` has no flow and no entry of one, and returns what it holds then.
///
/// # Errors
/// When it still has one after 10 s, or after as much more as entries may `linger`.
#[track_caller]
pub fn empty(daemon: &Daemon, linger: Duration) -> Result<Footprint> {
    wait_for("the daemon to have no flow and no map entry", PATIENCE + linger, || {
        footprint(daemon).ok().filter(|held| held.flows == 0 && held.map_entries == 0)
    })
    .map_err(|error| error.context(format!("{:?}", footprint(daemon))))
}

/// What `daemon` holds now.
///
/// # Errors
/// When it is gone, or the kernel does not tell.
pub fn footprint(daemon: &Daemon) -> Result<Footprint> {
    // The question itself takes a descriptor for a moment: it is asked before those are counted.
    let flows = daemon.flows()?.len();
    let process = Path::new("/proc").join(daemon.pid().to_string());
    let files: Vec<_> = fs::read_dir(process.join("fd"))?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let (pipes, others): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.to_string_lossy().starts_with("pipe:"));
    let descriptors = others.len();
    ensure!(flows > 0 || pipes.len() <= most_pipes()?, "an idle daemon keeps {} ends of pipes", pipes.len());
    let mut entries = 0;
    for entry in fs::read_dir(process.join("fdinfo"))? {
        // A descriptor may be closed between listing and reading.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u32> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim().parse().ok()
        };
        if let (Some(HASH | SOCKHASH), Some(id), Some(key)) =
            (field("map_type"), field("map_id"), field("key_size"))
        {
            entries += map_entries(id, key)?;
        }
    }
    Ok(Footprint { descriptors, map_entries: entries, flows })
}
