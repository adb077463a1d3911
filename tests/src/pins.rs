//! A BPF file system for one test, where daemons pin what is to outlive them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::deadline::{PATIENCE, wait_for};
use crate::workdir::{MOUNT, WorkDir, unmount};

/// Mounted as long as the value lives.
#[derive(Debug)]
pub struct Pins(WorkDir);

impl Pins {
    /// Mounts one.
    ///
    /// # Errors
    /// When it cannot be mounted, above all without root.
    pub fn create() -> Result<Self> {
        let pins = Self(WorkDir::create()?);
        std::fs::create_dir(pins.path())?;
        let mounted =
            Command::new("mount").args(["-t", "bpf", "-o", "mode=700", "bpf"]).arg(pins.path()).output();
        let mounted = mounted.context("starting `mount`")?;
        let errors = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "mounting a BPF file system: {errors}(the harness needs root)");
        Ok(pins)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.file(MOUNT)
    }

    /// Whether nothing is pinned there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        // The file system has a file or two of its own.
        Ok(!self.path().read_dir()?.flatten().any(|entry| entry.path().is_dir()))
    }

    /// The folders of daemons.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn folders(&self) -> Result<Vec<PathBuf>> {
        Ok(self.path().read_dir()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
    }

    /// The folder of the one daemon.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn folder(&self) -> Result<PathBuf> {
        let mut all = self.folders()?;
        ensure!(all.len() == 1, "{all:?}");
        all.pop().context("no folder")
    }

    /// The link of a program, at any interface.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&self, program: &str) -> Result<PathBuf> {
        let begins = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(program).is_some_and(|rest| rest.starts_with('-'))
        };
        let folders = self.path().read_dir()?.flatten().filter_map(|entry| entry.path().read_dir().ok());
        let mut files = folders.flatten().flatten().map(|entry| entry.path());
        files.find(begins).with_context(|| format!("no link of {program} is pinned"))
    }

    /// What the daemon has pinned under this name.
    ///
    /// # Errors
    /// When there is no folder of a daemon.
    pub fn pinned(&self, name: &str) -> Result<PathBuf> {
        let own =
            self.path().read_dir()?.flatten().map(|entry| entry.path()).find(|path| path.join(name).exists());
        Ok(own.with_context(|| format!("no {name} is pinned"))?.join(name))
    }

    /// A file beside it.
    pub fn journal(&self) -> PathBuf {
        self.0.file("packet.journal")
    }

    /// Waits until the journal names so many flows: it is written by a thread of its own, which dies with a killed daemon.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn wait_for_journal(&self, flows: usize) -> Result<()> {
        wait_for(&format!("{flows} flows in the journal"), PATIENCE, || {
            let text = std::fs::read_to_string(self.journal()).ok()?;
            (text.lines().count() >= flows && text.ends_with('\n')).then_some(())
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}
