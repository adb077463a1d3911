//! A file that tells the next daemon what the maps do not know of flows without sockets: names. One line of JSON for each
//! flow that comes or goes; without it a flow goes on all the same, and is listed without names.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{KEY_WORDS, Key};
use serde::{Deserialize, Serialize};

use super::lot::Parked;
use super::terms::Terms;
use crate::sys;

type Words = [u32; KEY_WORDS];

/// Lines beyond those of live flows, above which the file is written anew: as many as there are flows, and so many at least.
/// Then a line costs the same however many flows there are.
const SLACK: usize = 10_000;

/// A file that cannot be written is not tried again for so long: it would be tried as a whole.
const RETRY: Duration = Duration::from_secs(60);

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) keys: [Words; 2],
    /// Not in what an earlier version has written.
    #[serde(default)]
    pub(super) terms: Option<Terms>,
    pub(super) listener: String,
    pub(super) sni: Option<Box<str>>,
    pub(super) route: String,
    pub(super) upstream: Option<String>,
    /// How old it was, at this time of the clock that runs since the host was started.
    pub(super) age_ms: u64,
    pub(super) clock_ms: u64,
    pub(super) hello_ms: Option<u64>,
    pub(super) connect_ms: Option<u64>,
}

impl Note {
    pub(super) fn of(parked: &Parked) -> Self {
        let facts = parked.flow.facts().clone();
        Self {
            keys: parked.keys.each_ref().map(Key::to_words),
            terms: parked.terms,
            listener: parked.flow.listener.to_string(),
            sni: facts.sni,
            route: facts.route.to_string(),
            upstream: facts.upstream.map(|name| name.to_string()),
            age_ms: u64::try_from((parked.story.before + parked.flow.accepted.elapsed()).as_millis())
                .unwrap_or(0),
            clock_ms: sys::uptime_ms(),
            hello_ms: parked.story.hello.map(|time| u64::try_from(time.as_millis()).unwrap_or(0)),
            connect_ms: parked.story.connect.map(|time| u64::try_from(time.as_millis()).unwrap_or(0)),
        }
    }
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
    failed: Option<Instant>,
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
        notes
    }

    /// These flows of an earlier daemon are alive, and no others. The file is written once for all of them.
    pub(super) fn begin_with(&self, notes: Vec<Note>) {
        self.with(|inner| {
            inner.live = notes.into_iter().map(|note| (note.keys[0], note)).collect();
            inner.file = None;
            if !inner.live.is_empty() {
                let written = self.write_all(inner);
                self.settle(inner, written);
            }
        });
    }

    pub(super) fn add(&self, note: &Note) {
        self.with(|inner| {
            let [key, _] = note.keys;
            inner.live.insert(key, note.clone());
            self.write(inner, &Line::Came(Box::new(note.clone())));
        });
    }

    /// Unless its client has another flow by now.
    pub(super) fn remove(&self, keys: &[Key; 2]) {
        let [key, server] = keys.each_ref().map(Key::to_words);
        self.with(|inner| {
            if inner.live.get(&key).is_some_and(|note| note.keys == [key, server]) {
                inner.live.remove(&key);
                self.write(inner, &Line::Went(key));
            }
        });
    }

    fn with(&self, work: impl FnOnce(&mut Inner)) {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write(&self, inner: &mut Inner, line: &Line) {
        if inner.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
            return;
        }
        let slack = inner.live.len().max(SLACK);
        let written = if inner.file.is_none() || inner.lines > inner.live.len() + slack {
            self.write_all(inner)
        } else {
            inner.append(line)
        };
        self.settle(inner, written);
    }

    /// What could not be written is written with all else, later.
    fn settle(&self, inner: &mut Inner, written: io::Result<()>) {
        let Err(error) = written else {
            inner.failed = None;
            return;
        };
        (inner.file, inner.failed) = (None, Some(Instant::now()));
        if !std::mem::replace(&mut inner.complained, true) {
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
        let placed = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &self.path));
        // A part of it only takes room.
        placed.inspect_err(|_| drop(fs::remove_file(&fresh)))?;
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
            sni: Some("a.example".into()),
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
        next.begin_with(vec![note(3)]);
        next.add(&note(4));
        assert_eq!(Journal::new(&path).load().len(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    fn lines(path: &Path) -> usize {
        fs::read(path).unwrap().split(|byte| *byte == b'\n').count() - 1
    }

    #[test]
    fn the_more_flows_the_rarer_is_the_file_written_anew() {
        let folder = std::env::temp_dir().join(format!("snisplice-journal-many-{}", std::process::id()));
        let path = folder.join("packet.journal");
        let journal = Journal::new(&path);
        let many = 2 * u32::try_from(SLACK).unwrap();
        journal.begin_with((0..many).map(note).collect());
        assert_eq!(lines(&path), 2 * SLACK);
        let pass = |number| {
            journal.add(&note(number));
            journal.remove(&[Key::from_words([number; KEY_WORDS]), Key::default()]);
        };
        (0..many / 2).for_each(|number| pass(many + number));
        assert_eq!(lines(&path), 4 * SLACK);
        (0..2).for_each(|number| pass(many + number));
        assert!(lines(&path) < 2 * SLACK + 5);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_let_be_for_a_while_and_then_whole() {
        let folder = std::env::temp_dir().join(format!("snisplice-journal-none-{}", std::process::id()));
        let path = folder.join("packet.journal");
        // It cannot be a folder.
        fs::write(&folder, "").unwrap();
        let journal = Journal::new(&path);
        journal.add(&note(1));
        fs::remove_file(&folder).unwrap();
        journal.add(&note(2));
        assert!(!path.exists());
        journal.with(|inner| inner.failed = inner.failed.and_then(|failed| failed.checked_sub(RETRY)));
        journal.add(&note(3));
        assert_eq!(lines(&path), 3);
        fs::remove_dir_all(&folder).unwrap();
    }
}
