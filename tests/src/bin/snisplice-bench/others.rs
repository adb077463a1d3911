//! What processes that are no part of the benchmark take of the machine meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::process;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// The unit of /proc/PID/stat on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process that all kernel threads descend from.
const KERNEL: u32 = 2;

/// Counts their CPU time from its making on.
#[derive(Debug)]
pub(crate) struct Others {
    start: Instant,
    ticks: u64,
}

impl Others {
    pub(crate) fn watch() -> Result<Self> {
        Ok(Self { start: Instant::now(), ticks: Table::read()?.ticks_of_others(process::id()) })
    }

    /// Their share of all processors since then.
    pub(crate) fn share(&self) -> Result<f64> {
        // A process that ended takes its time with it when nobody waits for it.
        let ticks = Table::read()?.ticks_of_others(process::id()).saturating_sub(self.ticks);
        let all = self.start.elapsed().as_secs_f64() * thread::available_parallelism()?.get() as f64;
        Ok(ticks as f64 / TICKS_PER_SECOND / all)
    }
}

/// All processes: parent, and CPU time in ticks, that of children that were waited for included.
#[derive(Debug, Default)]
struct Table(BTreeMap<u32, (u32, u64)>);

impl Table {
    fn read() -> Result<Self> {
        let mut table = Self::default();
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may be gone by now.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if let Some(process) = parse(&stat) {
                table.0.insert(pid, process);
            }
        }
        Ok(table)
    }

    fn ticks_of_others(&self, own: u32) -> u64 {
        let others =
            self.0.iter().filter(|&(&pid, _)| !self.descends(pid, own) && !self.descends(pid, KERNEL));
        // Our ancestors get our time only when we have ended.
        others.map(|(_, (_, ticks))| ticks).sum()
    }

    fn descends(&self, mut pid: u32, from: u32) -> bool {
        while pid != from {
            match self.0.get(&pid) {
                Some(&(parent, _)) if parent != 0 => pid = parent,
                _ => return false,
            }
        }
        true
    }
}

/// Parent and ticks. The name in parentheses may hold anything.
fn parse(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let times = fields.get(11..15)?.iter().map(|time| time.parse::<u64>().ok());
    Some((parent, times.sum::<Option<u64>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_processes_and_kernel_threads_are_no_others() {
        assert_eq!(parse("77 (a) b) S 5 77 77 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 9"), Some((5, 127)));
        assert_eq!(parse("77 (cut"), None);
        let processes = [
            (1, (0, 1)),
            (2, (0, 1000)),
            (3, (2, 1000)),
            (10, (1, 7)),
            (20, (10, 500)),
            (21, (20, 500)),
            (30, (1, 60)),
        ];
        let table = Table(processes.into_iter().collect());
        assert_eq!(table.ticks_of_others(20), 1 + 7 + 60);
    }

    #[test]
    fn this_process_is_no_other() {
        let before = Others::watch().unwrap();
        assert!(before.share().unwrap() >= 0.0);
        assert!(Table::read().unwrap().descends(process::id(), process::id()));
    }
}
