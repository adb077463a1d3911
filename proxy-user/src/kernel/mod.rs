//! What the kernel does for us: loaded programs, typed maps, and whether they do what they should.

mod daemon;
mod failure;
pub(crate) mod guard;
mod local;
mod localtest;
mod object;
pub(crate) mod packet;
mod probe;
mod selftest;
mod slots;
mod sockmap;

pub(crate) use daemon::{Kernel, LOST};
pub(crate) use failure::{ROOTLESS, Unavailable};
pub(crate) use local::{BackendLookup, FourTuple};
pub(crate) use localtest::Local;
pub(crate) use packet::{Armed, Packet, PacketCounters};
pub(crate) use probe::{Probed, packet_caution, probe};
pub(crate) use sockmap::{Attachment, Handle, KernelCounters, Sockmap, Track};
