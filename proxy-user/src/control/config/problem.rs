//! Errors and warnings as operators see them.

use std::fmt;

use serde::Serialize;

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

/// The text on one line, and without what would steer a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
