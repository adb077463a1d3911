//! Which tests are played in a guest, and what they are about.

use super::Datapath;

/// What a test is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Sockmap,
    Local,
    Packet,
    Guard,
    Copy,
    /// Offloaded connections that get sockets again.
    Restore,
    /// A daemon that is killed.
    Kill,
    /// Bytes that are checked by position.
    Bulk,
    /// A kernel without the rest.
    Refusals,
}

/// Tests to play: a program, the beginnings of their names (all, if none), and by which datapath.
pub(super) struct Part {
    pub(super) program: String,
    pub(super) tests: Vec<String>,
    pub(super) datapath: Datapath,
    /// That run at a time.
    pub(super) threads: &'static str,
    /// What the table of kernels calls what they are about.
    pub(super) column: Column,
}
