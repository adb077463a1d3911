//! What is wrong with a configuration, and where.
//!
//! Problems are gathered, not returned at the first one, so that one run shows all of them.

use std::fmt;

use serde::Serialize;

use super::source::{Text, printable};

/// Problems of one kind that are kept. A file can hold more than anyone reads; the rest is counted.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// Characters of a value that a message repeats.
const MAX_QUOTED: usize = 64;

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Name of the file as the operator gave it; control characters are escaped.
    pub(crate) file: String,
    /// From 1. None when the problem is the file itself.
    pub(crate) line: Option<usize>,
    /// From 1, in characters. None when the problem is the file itself.
    pub(crate) column: Option<usize>,
    /// What is wrong, and after a semicolon what to do. One line.
    pub(crate) message: String,
}

impl Problem {
    /// Of the file as a whole.
    pub(crate) fn of_file(file: &str, message: String) -> Self {
        Self { file: printable(file), line: None, column: None, message }
    }

    /// As a line of its own among other output: `FILE:LINE:COLUMN: warning: what; what to do`.
    pub(crate) fn as_warning(&self) -> String {
        let message = format!("warning: {}", self.message);
        Self { message, ..self.clone() }.to_string()
    }
}

impl fmt::Display for Problem {
    /// `FILE:LINE:COLUMN: what is wrong; what to do`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every error of a configuration, in the order of the file. Never empty.
#[derive(Debug)]
pub(crate) struct ConfigErrors {
    pub(super) problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The only error, where nothing else can be read.
    pub(super) fn single(error: Problem) -> Self {
        Self { problems: vec![error] }
    }

    /// The only error, of the file as a whole.
    pub(super) fn of_file(file: &str, what: impl fmt::Display, way_out: impl fmt::Display) -> Self {
        Self::single(Problem::of_file(file, format!("{what}; {way_out}")))
    }

    /// Errors that belong together. There must be one.
    pub(crate) fn of(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// The errors one by one, for output that a program reads.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl fmt::Display for ConfigErrors {
    /// One error per line, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What a value is wrong about, before its place is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
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
