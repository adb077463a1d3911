//! What is wrong with a configuration, and where.
//!
//! Problems are gathered, not returned at the first one, so that one run shows all of them.

use std::fmt;

use super::problem::{ConfigErrors, Problem};
use super::source::Text;

/// Problems of one kind that are kept. A file can hold more than anyone reads; the rest is counted.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// Characters of a value that a message repeats.
const MAX_QUOTED: usize = 64;

/// What a value is wrong about, before its place is known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {way_out}")]
pub(crate) struct Fault {
    pub(super) what: String,
    pub(super) way_out: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: way_out.into() }
    }
}

/// Gathers the problems of one text.
pub(super) struct Report<'t> {
    text: &'t Text<'t>,
    /// With the byte offset, to sort by.
    errors: Vec<(usize, Problem)>,
    warnings: Vec<(usize, Problem)>,
    more: usize,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t Text<'t>) -> Self {
        Self { text, errors: Vec::new(), warnings: Vec::new(), more: 0 }
    }

    /// Adds an error at byte offset `at`.
    pub(super) fn error(&mut self, at: usize, what: impl fmt::Display, way_out: impl fmt::Display) {
        if self.errors.len() < MAX_PROBLEMS {
            self.errors.push((at, self.text.problem(at, &format!("{what}; {way_out}"))));
        } else {
            self.more += 1;
        }
    }

    /// Adds an error that takes work to word: not done when nobody will read it. `word` is given the text, to
    /// name a second place.
    pub(super) fn fault(&mut self, at: usize, word: impl FnOnce(&Text<'_>) -> Fault) {
        if self.errors.len() < MAX_PROBLEMS {
            let fault = word(self.text);
            self.error(at, fault.what, fault.way_out);
        } else {
            self.more += 1;
        }
    }

    /// Adds a warning at byte offset `at`. Warnings above the limit are dropped.
    pub(super) fn warn(&mut self, at: usize, what: impl fmt::Display, way_out: impl fmt::Display) {
        self.caution(at, |_| Fault::new(what.to_string(), way_out.to_string()));
    }

    /// Adds a warning that takes work to word, like [`Report::fault`].
    pub(super) fn caution(&mut self, at: usize, word: impl FnOnce(&Text<'_>) -> Fault) {
        if self.warnings.len() < MAX_PROBLEMS {
            let Fault { what, way_out } = word(self.text);
            self.warnings.push((at, self.text.problem(at, &format!("{what}; {way_out}"))));
        }
    }

    /// The value, or None with the fault added as an error at `at`.
    pub(super) fn keep<T>(&mut self, at: usize, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.error(at, fault.what, fault.way_out)).ok()
    }

    /// The warnings, or every error. The two never come together: what an error breaks would warn as well.
    pub(super) fn finish(self) -> Result<Vec<Problem>, ConfigErrors> {
        if self.errors.is_empty() { Ok(in_order(self.warnings)) } else { Err(self.into_errors()) }
    }

    /// Every error. For a reader that has reported one and cannot go on.
    pub(super) fn into_errors(self) -> ConfigErrors {
        let mut problems = in_order(self.errors);
        if self.more > 0 {
            let message = format!("{} more errors are not shown; correct these first", self.more);
            problems.push(self.text.problem_of_file(message));
        }
        ConfigErrors { problems }
    }
}

fn in_order(mut problems: Vec<(usize, Problem)>) -> Vec<Problem> {
    problems.sort_by_key(|&(at, _)| at);
    problems.into_iter().map(|(_, problem)| problem).collect()
}

/// A value from the file in quotes: on one line, without control characters, not longer than a line bears.
pub(super) fn quote(value: &str) -> String {
    match value.char_indices().nth(MAX_QUOTED).and_then(|(end, _)| value.get(..end)) {
        Some(start) => format!("{start:?}..."),
        None => format!("{value:?}"),
    }
}
