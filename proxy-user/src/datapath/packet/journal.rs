//! A file that tells the next daemon what the maps do not know of flows without sockets: names. One line of JSON for each
//! flow that comes or goes; without it a flow goes on all the same, and is listed without names.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use proxy_common::abi::packet::{KEY_WORDS, Key};
use serde::{Deserialize, Serialize};

use super::terms::Terms;

type Words = [u32; KEY_WORDS];

/// Lines beyond those of live flows, above which the file is written anew.
const SLACK: usize = 10_000;

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) keys: [Words; 2],
    /// Not in what an earlier version has written.
    #[serde(default)]
    pub(super) terms: Option<Terms>,
    pub(super) listener: String,
    pub(super) sni: Option<String>,
    pub(super) route: String,
    pub(super) upstream: Option<String>,
    /// How old it was, at this time of the clock that runs since the host was started.
    pub(super) age_ms: u64,
    pub(super) clock_ms: u64,
    pub(super) hello_ms: Option<u64>,
    pub(super) connect_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
enum Line {
    Came(Box<Note>),
    Went(Words),
}

pub(super) struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    file: Option<File>,
    live: HashMap<Words, Note>,
    lines: usize,
    complained: bool,
}

impl Journal {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), inner: Mutex::default() }
    }

    /// What an earlier daemon has written. Lines that are not whole are left out.
    pub(super) fn load(&self) -> HashMap<Words, Note> {
        let mut notes = HashMap::new();
        let Ok(file) = File::open(&self.path) else { return notes };
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Line::Came(note)) => {
                    let [key, _] = note.keys;
                    notes.insert(key, *note);
                }
                Ok(Line::Went(key)) => drop(notes.remove(&key)),
                Err(_) => {}
            }
        }
        self.with(|inner| inner.live.clone_from(&notes));
        notes
    }

    /// Only these flows are alive.
    pub(super) fn forget_all_but(&self, keys: &HashSet<Words>) {
        self.with(|inner| {
            inner.live.retain(|key, _| keys.contains(key));
            inner.file = None;
        });
    }

    pub(super) fn add(&self, note: &Note) {
        self.with(|inner| {
            let [key, _] = note.keys;
            inner.live.insert(key, note.clone());
            self.write(inner, &Line::Came(Box::new(note.clone())));
        });
    }

    pub(super) fn remove(&self, [client, _]: &[Key; 2]) {
        let key = client.to_words();
        self.with(|inner| {
            if inner.live.remove(&key).is_some() {
                self.write(inner, &Line::Went(key));
            }
        });
    }

    fn with(&self, work: impl FnOnce(&mut Inner)) {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write(&self, inner: &mut Inner, line: &Line) {
        let written = if inner.file.is_none() || inner.lines > inner.live.len() + SLACK {
            self.write_all(inner)
        } else {
            inner.append(line)
        };
        if let Err(error) = written
            && !std::mem::replace(&mut inner.complained, true)
        {
            tracing::warn!(
                journal = %self.path.display(), %error,
                "the next daemon will not know the names of flows that outlive this one"
            );
        }
    }

    /// Writes the file anew, as a whole.
    fn write_all(&self, inner: &mut Inner) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = self.path.with_extension("new");
        let mut text = Vec::new();
        for note in inner.live.values() {
            serde_json::to_writer(&mut text, &Line::Came(Box::new(note.clone())))?;
            text.push(b'\n');
        }
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)?;
        inner.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        inner.lines = inner.live.len();
        Ok(())
    }
}

impl Inner {
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.lines += 1;
        // One call: lines of two writers would not be mixed.
        file.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(number: u32) -> Note {
        Note {
            keys: [[number; KEY_WORDS], [0; KEY_WORDS]],
            terms: Some(Terms { stamps: true, selective: false, sizes: [[number, 2], [3, 4]] }),
            listener: "tls".to_owned(),
            sni: Some("a.example".to_owned()),
            route: "r".to_owned(),
            upstream: None,
            age_ms: 1,
            clock_ms: 2,
            hello_ms: Some(3),
            connect_ms: None,
        }
    }

    #[test]
    fn what_came_and_did_not_go_is_found_by_the_next() {
        let folder = std::env::temp_dir().join(format!("snisplice-journal-{}", std::process::id()));
        let path = folder.join("packet.journal");
        let journal = Journal::new(&path);
        (1..=3).for_each(|number| journal.add(&note(number)));
        journal.remove(&[Key::from_words([2; KEY_WORDS]), Key::default()]);
        // The daemon was killed in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"Came\":{").unwrap();

        let next = Journal::new(&path);
        let found = next.load();
        let mut numbers: Vec<u32> = found.keys().map(|[number, ..]| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 3]);
        assert_eq!(found[&[3; KEY_WORDS]], note(3));
        next.forget_all_but(&HashSet::from([[3; KEY_WORDS]]));
        next.add(&note(4));
        assert_eq!(Journal::new(&path).load().len(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
