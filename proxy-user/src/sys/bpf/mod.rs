//! What aya, the library that loads our BPF programs, does not ask the kernel.

mod attached;
mod iterator;
mod objects;
mod run;
mod syscall;

pub(crate) use self::attached::{MESSAGES, STREAM, attach_to_map, attached_to_map, has_tcx, programs_at};
pub(crate) use self::iterator::{delete_entry, link_iterator, run_iterator};
pub(crate) use self::objects::{count_entries, detach_link, link_at, object_id, pin, pinned};
pub(crate) use self::run::run_program;
