//! The test harness of snisplice: network namespaces, the daemon as a child process, and peers that can be scripted.
//!
//! A test builds a [`Topology`](netns::Topology) of three network namespaces, client -- edge -- backend, starts the
//! daemon in the edge and drives peers on both sides of it. Everything is blocking sockets and plain threads, so that
//! a test reads from top to bottom in the order in which things happen on the wire. All that a test makes is
//! removed when its values go out of scope, also when the test fails.
//!
//! Everything here needs root: namespaces are made with `ip` of iproute2.

pub mod carrier;
pub mod command;
pub mod daemon;
pub mod deadline;
pub mod guard;
pub mod hello;
pub mod impair;
pub mod interrupt;
pub mod kernel;
pub mod kernel_log;
pub mod keyed;
pub mod netns;
pub mod peers;
pub mod pins;
pub mod random;
pub mod script;
pub mod site;
pub mod wire;
pub mod workdir;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;
