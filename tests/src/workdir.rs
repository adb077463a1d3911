//! Directories for the files of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// Name of the mount point of a BPF file system in a test's directory.
pub(crate) const MOUNT: &str = "bpf";

/// The prefix of all that the harness gives a name to: namespaces and directories.
pub(crate) const PREFIX: &str = "snis-";

/// A name that no other test and no other test process has: `snis-<pid>-<number>`.
pub(crate) fn unique_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// True for a name of [`unique_name`], with or without a suffix, whose process is gone.
pub(crate) fn is_left_over(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// Removes all directories of this process. For a process that ends without unwinding, as on Ctrl-C.
///
/// # Errors
/// When the system's temporary directory cannot be read.
pub fn remove_own() -> Result<()> {
    let own = format!("{PREFIX}{}-", process::id());
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&own)) {
            unmount(&entry.path().join(MOUNT));
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

/// A directory of its own under the system's temporary directory, removed with all content on drop.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// Makes an empty directory, and removes those that killed test processes have left.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create() -> Result<Self> {
        let parent = std::env::temp_dir();
        for entry in fs::read_dir(&parent)?.flatten() {
            if entry.file_name().to_str().is_some_and(is_left_over) {
                unmount(&entry.path().join(MOUNT));
                // Another test process may be sweeping as well: whoever comes first wins.
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        let path = parent.join(unique_name());
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    /// The path of the file `name` in this directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the file `name` and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Unmounts a BPF file system, with all that is pinned there.
pub(crate) fn unmount(path: &Path) {
    // A failure leaves a mount behind; the next test process sweeps it.
    drop(Command::new("umount").arg("--lazy").arg(path).output());
}
