//! The thread that writes the journal.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::file::Store;
use super::note::{LineOf, Note};
use super::{Change, PARTS, Shared};
use crate::hub::run_again;

/// Lines beyond those of live flows, above which the file is written anew: as many as there are flows, and so many at least.
/// Then a line costs the same however many flows there are.
pub(super) const SLACK: usize = 10_000;

pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    store: Box<dyn Store>,
    retry: Duration,
    /// Lines of the file.
    lines: usize,
    failed: Option<Instant>,
    has_complained: bool,
}

enum Work {
    Append(Vec<Change>),
    Whole,
}

impl Writer {
    pub(super) fn new(path: &Path, shared: Arc<Shared>, store: Box<dyn Store>, retry: Duration) -> Self {
        let path = path.to_owned();
        Self { path, shared, store, retry, lines: 0, failed: None, has_complained: false }
    }

    pub(super) fn run(mut self) {
        let mut has_begun = false;
        run_again("writing the journal", || {
            if std::mem::replace(&mut has_begun, true) {
                // What it had in its hands is written with all else.
                self.shared.state().is_whole_due = true;
            }
            self.write();
        });
    }

    fn write(&mut self) {
        while let Some(work) = self.next() {
            let written = match work {
                Work::Append(changes) => self.append(&changes),
                Work::Whole => self.write_all(),
            };
            if !self.settle(written) {
                break;
            }
        }
        self.shared.state().has_ended = true;
        self.shared.changed.notify_all();
    }

    /// Waits for something to be written. None: this is the end.
    fn next(&mut self) -> Option<Work> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        loop {
            let pause = self.failed.and_then(|at| self.retry.checked_sub(at.elapsed()));
            match (state.is_due(), state.is_ending, pause) {
                (true, true, _) | (true, false, None) => break,
                (false, true, _) => return None,
                (false, false, _) => {
                    state.is_idle = true;
                    shared.changed.notify_all();
                    state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                (true, false, Some(pause)) => {
                    state.is_idle = true;
                    shared.changed.notify_all();
                    let waited = shared.changed.wait_timeout(state, pause);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        state.is_idle = false;
        let is_long = self.lines + state.pending.len() > state.flows + state.flows.max(SLACK);
        let changes = std::mem::take(&mut state.pending);
        if state.is_whole_due || is_long || !self.store.is_open() {
            state.is_whole_due = false;
            return Some(Work::Whole);
        }
        Some(Work::Append(changes))
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut text = Vec::new();
        for change in changes {
            match change {
                Change::Came(note) => LineOf::Came(note).write(&mut text)?,
                Change::Went(key) => LineOf::Went(key).write(&mut text)?,
            }
        }
        self.lines += changes.len();
        self.store.write(&text)
    }

    /// Writes the file anew. What changes meanwhile is in the list of changes, and is appended next: a line says what is, so
    /// that it does no harm if the file has it already.
    fn write_all(&mut self) -> io::Result<()> {
        self.store.begin()?;
        self.lines = 0;
        for part in 0..PARTS {
            let notes: Vec<Arc<Note>> = self
                .shared
                .state()
                .live
                .get(&part)
                .into_iter()
                .flat_map(|part| part.values().cloned())
                .collect();
            let mut text = Vec::new();
            for note in &notes {
                LineOf::Came(note).write(&mut text)?;
            }
            self.lines += notes.len();
            self.store.write(&text)?;
        }
        self.store.place()
    }

    /// What could not be written is written with all else, later. False: there is no later.
    fn settle(&mut self, written: io::Result<()>) -> bool {
        let Err(error) = written else {
            self.failed = None;
            return true;
        };
        self.store.close();
        self.failed = Some(Instant::now());
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(
                journal = %self.path.display(), %error,
                "the next daemon will not know the names of flows that outlive this one"
            );
        }
        let mut state = self.shared.state();
        (state.pending, state.is_whole_due) = (Vec::new(), true);
        !state.is_ending
    }
}
