//! The journal on disk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::note::{Line, Note, Words};
use crate::sys;

/// A line that is longer is none of ours.
const LINE_MAX: u64 = 64 << 10;

/// Where lines are written to. Each call may take as long as a disk takes that hangs.
pub(super) trait Store: Send {
    /// Whether there is a file that lines can be appended to.
    fn is_open(&self) -> bool;
    /// Begins a new file, which takes what is written from here on.
    fn begin(&mut self) -> io::Result<()>;
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;
    /// The new file takes the place of the old one, if there is one.
    fn place(&mut self) -> io::Result<()>;
    /// Lets go of both, and removes the new one if it has not taken its place: a part of it only takes room.
    fn close(&mut self);
}

pub(super) struct Files {
    path: PathBuf,
    placed: Option<File>,
    fresh: Option<File>,
}

impl Files {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), placed: None, fresh: None }
    }

    fn fresh_path(&self) -> PathBuf {
        self.path.with_extension("new")
    }
}

impl Store for Files {
    fn is_open(&self) -> bool {
        self.placed.is_some()
    }

    fn begin(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        self.fresh = Some(sys::create_anew(&self.fresh_path())?);
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = self.fresh.as_mut().or(self.placed.as_mut());
        file.ok_or_else(|| io::Error::other("no journal is open"))?.write_all(lines)
    }

    fn place(&mut self) -> io::Result<()> {
        fs::rename(self.fresh_path(), &self.path)?;
        self.placed = self.fresh.take();
        Ok(())
    }

    fn close(&mut self) {
        self.placed = None;
        if self.fresh.take().is_some() {
            let _ = fs::remove_file(self.fresh_path());
        }
    }
}

/// What an earlier daemon has written. Lines that are not whole are left out.
pub(super) fn load(path: &Path) -> io::Result<HashMap<Words, Note>> {
    let mut file = BufReader::new(sys::open_own(path)?);
    let (mut notes, mut line) = (HashMap::new(), Vec::new());
    loop {
        line.clear();
        if (&mut file).take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(notes);
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Came(note)) => {
                let [key, _] = note.keys;
                notes.insert(key, *note);
            }
            Ok(Line::Went(key)) => drop(notes.remove(&key)),
            Err(_) => {}
        }
    }
}
