//! How a command fails.

use std::fmt;

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
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}
