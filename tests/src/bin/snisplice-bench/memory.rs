//! What idle connections cost.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use harness::deadline::{dawdle, wait_for};
use std::time::Duration;

/// How long what the kernel and the processes hold must stand still.
const STILL: Duration = Duration::from_millis(250);

/// Changes below this are stillness, in KiB.
const NOISE: f64 = 512.0;

/// How long stillness is waited for; a machine that never stands still is measured as it is.
const LIMIT: Duration = Duration::from_secs(3);

/// What is held at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// KiB of user memory of the proxy's processes, shared pages divided among those that share them.
    pub(crate) user: f64,
    /// KiB of kernel memory of the whole machine: objects in slabs, page tables, stacks, per-processor memory.
    pub(crate) kernel: f64,
    /// Open descriptors of the proxy's processes.
    pub(crate) descriptors: f64,
}

impl Held {
    /// What is held when it has stopped to change.
    pub(crate) fn when_still(pids: &[u32]) -> Result<Self> {
        let mut last = Self::now(pids)?;
        let still = wait_for("memory to stand still", LIMIT, || {
            dawdle(STILL);
            let now = Self::now(pids);
            let done = now.as_ref().map_or(true, |now| last.is_near(now));
            if let Ok(now) = &now {
                last = *now;
            }
            done.then_some(now)
        });
        still.unwrap_or(Ok(last))
    }

    /// Needs root, for the kernel's part.
    fn now(pids: &[u32]) -> Result<Self> {
        forget_files()?;
        let held = Self::of_processes(pids)?;
        let all = Path::new("/proc/meminfo");
        let kernel = objects()? + field(all, &["PageTables", "KernelStack", "Percpu"])?;
        Ok(Self { kernel, ..held })
    }

    fn of_processes(pids: &[u32]) -> Result<Self> {
        let mut held = Self::default();
        for pid in pids {
            let process = Path::new("/proc").join(pid.to_string());
            held.user += field(&process.join("smaps_rollup"), &["Pss"])?;
            held.descriptors += fs::read_dir(process.join("fd"))?.count() as f64;
        }
        Ok(held)
    }

    fn is_near(&self, other: &Self) -> bool {
        (self.user - other.user).abs() < NOISE && (self.kernel - other.kernel).abs() < NOISE
    }

    /// What came since `before`, for each of `flows`.
    pub(crate) fn per_flow(self, before: Self, flows: usize) -> Self {
        let share = |now: f64, before: f64| (now - before) / flows as f64;
        Self {
            user: share(self.user, before.user),
            kernel: share(self.kernel, before.kernel),
            descriptors: share(self.descriptors, before.descriptors),
        }
    }
}

/// What the kernel remembers of files that were looked at, above all of those that stand for descriptors in `/proc`, is not the flows'.
fn forget_files() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping cached inodes")
}

/// KiB of all objects in slabs. Not of the slabs: sockets that a flow has left stand between those of its peers, which are on the same
/// machine only here, and keep their pages.
fn objects() -> Result<f64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo")?;
    sum_of_objects(&text).context("/proc/slabinfo is not as slabinfo(5) has it")
}

/// Name, objects in use, objects, bytes of each, and more, below two lines of heads.
fn sum_of_objects(text: &str) -> Option<f64> {
    let bytes = |line: &str| -> Option<f64> {
        let mut words = line.split_whitespace().skip(1);
        let (used, size) = (words.next()?, words.nth(1)?);
        Some(used.parse::<f64>().ok()? * size.parse::<f64>().ok()?)
    };
    Some(text.lines().skip(2).map(bytes).sum::<Option<f64>>()? / 1024.0)
}

fn field(file: &Path, names: &[&str]) -> Result<f64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    sum(&text, names).with_context(|| format!("{} has not all of {names:?}", file.display()))
}

/// The sum of some lines of the form `Name:   123 kB`.
fn sum(text: &str, names: &[&str]) -> Option<f64> {
    let value = |name: &&str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    names.iter().map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_in_use_are_added_up() {
        let text = "slabinfo - version: 2.1\n# name ...\nTCP 2 13 2048 13 8 : tunables 0\nfilp 4 16 256 16 1 : slabdata 1\n";
        assert_eq!(sum_of_objects(text), Some(5.0));
        assert_eq!(sum_of_objects("a\nb\nTCP 2\n"), None);
    }

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "MemTotal:  1000 kB\nSlabby: 9 kB\nSlab:   20 kB\nPss: 3 kB\nHugePages: 7\n";
        assert_eq!(sum(text, &["Slab"]), Some(20.0));
        assert_eq!(sum(text, &["Slab", "Pss"]), Some(23.0));
        assert_eq!(sum(text, &["Slab", "Gone"]), None);
        assert_eq!(sum(text, &["HugePages"]), None);
    }

    #[test]
    fn this_process_holds_memory_and_descriptors() {
        let held = Held::of_processes(&[std::process::id()]).unwrap();
        assert!(held.user > 100.0 && held.descriptors >= 3.0, "{held:?}");
        let more = Held { user: held.user + 90.0, ..held };
        assert_eq!(more.per_flow(held, 9).user, 10.0);
    }
}
