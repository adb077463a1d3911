//! How a command fails.

use std::fmt;

use serde_json::{Value, json};

use super::config::{ConfigErrors, Problem};

/// Why a command failed, as an exit code (`sysexits.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// An address cannot be bound, or the daemon does not answer.
    Unavailable = 69,
    /// The operating system failed in another way.
    System = 71,
    /// A privilege is missing.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// A failed command: what to print, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// The same with the places in a file.
    pub(crate) problems: Vec<Problem>,
    /// Whether JSON that says so is on stdout already.
    pub(crate) is_printed: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), problems: Vec::new(), is_printed: false }
    }

    /// What the operator reads. Errors in a file begin with their place, all others with their severity.
    pub(crate) fn told(&self) -> String {
        let severity = if self.problems.is_empty() { "error: " } else { "" };
        format!("{severity}{}", self.message)
    }

    /// The errors one by one, for output that a program reads: `file`, `line`, `column` and `message` each.
    pub(crate) fn errors(&self) -> Vec<Value> {
        if self.problems.is_empty() {
            let nowhere = Value::Null;
            return vec![
                json!({ "file": nowhere, "line": nowhere, "column": nowhere, "message": self.message }),
            ];
        }
        self.problems.iter().map(|problem| json!(problem)).collect()
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        let failure = Self::new(Exit::Config, &errors);
        Self { problems: errors.into_problems(), ..failure }
    }
}
