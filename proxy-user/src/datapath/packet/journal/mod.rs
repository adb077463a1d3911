//! A file that tells the next daemon what the maps do not know of flows without sockets: names. One line of JSON for each
//! flow that comes or goes; without it a flow goes on all the same, and is listed without names.
//!
//! It is written by a thread of its own: no flow waits for a disk. What the thread has not written yet is a list of changes
//! of bounded length; if that is too short, since the disk hangs, the file is written anew from the table later.

mod file;
mod note;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use proxy_common::abi::packet::Key;

use file::{Files, Store};
pub(super) use note::Note;
use note::Words;
use writer::Writer;

/// Changes that wait to be written.
const PENDING_MAX: usize = 16_384;

/// The table of flows is read in so many parts when the file is written anew, so that nobody waits long for the lock: with a
/// million flows a part has 16,000, which takes less than a millisecond.
const PARTS: u8 = 64;

/// A file that cannot be written is not tried again for so long: it would be tried as a whole.
const RETRY: Duration = Duration::from_secs(60);

/// The end of the daemon waits so long for a disk that hangs.
const LAST_WRITE: Duration = Duration::from_secs(3);

pub(super) struct Journal {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// In parts, by a hash of the key.
    live: HashMap<u8, HashMap<Words, Arc<Note>>>,
    flows: usize,
    /// What has happened since the writer last took this, or began to write the file anew.
    pending: Vec<Change>,
    /// The file has to be written anew, as a whole.
    is_whole_due: bool,
    is_idle: bool,
    is_ending: bool,
    has_ended: bool,
}

enum Change {
    Came(Arc<Note>),
    Went(Words),
}

impl Journal {
    pub(super) fn new(path: &Path) -> Self {
        Self::with(path, Box::new(Files::new(path)), RETRY)
    }

    fn with(path: &Path, store: Box<dyn Store>, retry: Duration) -> Self {
        let state = State {
            live: HashMap::new(),
            flows: 0,
            pending: Vec::new(),
            is_whole_due: false,
            is_idle: false,
            is_ending: false,
            has_ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let writer = Writer::new(path, Arc::clone(&shared), store, retry);
        let started = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run());
        if let Err(error) = started {
            tracing::warn!(%error, "no journal is written: cannot start a thread for it");
            shared.state().has_ended = true;
        }
        Self { path: path.to_owned(), shared }
    }

    /// What an earlier daemon has written.
    pub(super) fn load(&self) -> HashMap<Words, Note> {
        Self::load_from(&self.path)
    }

    /// The same from another file.
    pub(super) fn load_from(path: &Path) -> HashMap<Words, Note> {
        file::load(path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(
                    journal = %path.display(), %error,
                    "the journal cannot be read: connections of the last daemon have no names"
                );
            }
            HashMap::new()
        })
    }

    /// These flows of an earlier daemon are alive, and no others. The file is written once for all of them.
    pub(super) fn begin_with(&self, notes: Vec<Note>) {
        let mut state = self.shared.state();
        for note in notes {
            state.enter(Arc::new(note));
        }
        state.is_whole_due = state.flows > 0;
        self.shared.wake(state);
    }

    pub(super) fn add(&self, note: Note) {
        let note = Arc::new(note);
        let mut state = self.shared.state();
        state.enter(Arc::clone(&note));
        state.push(Change::Came(note));
        self.shared.wake(state);
    }

    /// Unless its client has another flow by now.
    pub(super) fn remove(&self, keys: &[Key; 2]) {
        let [key, server] = keys.each_ref().map(Key::to_words);
        let mut state = self.shared.state();
        let part = state.part(&key);
        if part.get(&key).is_some_and(|note| note.keys == [key, server]) {
            part.remove(&key);
            state.flows -= 1;
            state.push(Change::Went(key));
            self.shared.wake(state);
        }
    }

    /// Writes what is left, unless the disk hangs. Nothing is written any more afterwards.
    pub(super) fn finish(&self) {
        let mut state = self.shared.state();
        state.is_ending = true;
        self.shared.changed.notify_all();
        let is_busy = |state: &mut State| !state.has_ended;
        drop(self.shared.changed.wait_timeout_while(state, LAST_WRITE, is_busy));
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.state().is_ending = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let was_idle = std::mem::take(&mut state.is_idle);
        drop(state);
        if was_idle {
            self.changed.notify_all();
        }
    }
}

impl State {
    fn part(&mut self, key: &Words) -> &mut HashMap<Words, Arc<Note>> {
        let mixed = key.iter().fold(0_u32, |sum, word| (sum ^ word).wrapping_mul(0x9e37_79b1));
        self.live.entry(u8::try_from(mixed >> 26).unwrap_or(0) % PARTS).or_default()
    }

    fn enter(&mut self, note: Arc<Note>) {
        let [key, _] = note.keys;
        if self.part(&key).insert(key, note).is_none() {
            self.flows += 1;
        }
    }

    fn push(&mut self, change: Change) {
        if self.is_whole_due {
            // It will be in there.
        } else if self.pending.len() < PENDING_MAX {
            self.pending.push(change);
        } else {
            self.pending = Vec::new();
            self.is_whole_due = true;
        }
    }

    fn is_due(&self) -> bool {
        self.is_whole_due || !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests;
