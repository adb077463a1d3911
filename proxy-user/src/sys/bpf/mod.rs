//! What aya, the library that loads our BPF programs, does not ask the kernel.

mod attached;
mod iterator;
mod objects;
mod run;

pub(crate) use self::attached::{MESSAGES, STREAM, attach_to_map, attached_to_map, programs_at};
pub(crate) use self::iterator::{delete_entry, link_iterator, run_iterator};
pub(crate) use self::objects::{
    attach_xdp, count_entries, detach_link, has_tcx, link_at, link_interface, object_id, pin, pinned,
    update_link, wait_for_programs,
};
pub(crate) use self::run::run_program;
