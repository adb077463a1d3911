//! Which programs are attached to a map of sockets or, by tcx, to an interface. aya does not ask the former, and asks the latter
//! by the name of the interface, which another one may have by then. aya can attach to a map of sockets, but keeps a link for each
//! time, and needs the program for itself alone.

use std::io;
use std::os::fd::AsFd;

use super::syscall::{bpf, number};

/// `BPF_PROG_ATTACH` and `BPF_PROG_QUERY` (`include/uapi/linux/bpf.h`).
const PROG_ATTACH: libc::c_long = 8;
const PROG_QUERY: libc::c_long = 16;

/// What programs of maps of sockets decide about: `BPF_SK_SKB_STREAM_VERDICT`, what is received,
pub(crate) const STREAM: u32 = 5;
/// and `BPF_SK_MSG_VERDICT`, what is sent.
pub(crate) const MESSAGES: u32 = 7;

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` uses for them.
#[repr(C)]
struct Attachment {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses for maps of sockets.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Query>() == 32);

/// Attaches a program to a map of sockets, in the place of another one if there is any.
pub(crate) fn attach_to_map(map: &impl AsFd, program: &impl AsFd, kind: u32) -> io::Result<()> {
    let (target_fd, program_fd) = (number(map)?, number(program)?);
    let mut attachment = Attachment { target_fd, program_fd, attach_type: kind, flags: 0 };
    // SAFETY: no addresses. The kernel takes a reference to the program of its own.
    unsafe { bpf(PROG_ATTACH, &mut attachment) }.map(drop)
}

/// The id of the program of this kind that is attached to a map of sockets. None: there is none. Kernels before 5.17 do not tell
/// (`EINVAL`).
pub(crate) fn attached_to_map(map: &impl AsFd, kind: u32) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    let target_fd = number(map)?;
    let mut query = Query {
        target_fd,
        attach_type: kind,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: (&raw mut id).expose_provenance() as u64,
        prog_count: 1,
        padding: 0,
    };
    // SAFETY: `prog_ids` is the address of room for `prog_count` ids, which lives as long as the call.
    unsafe { bpf(PROG_QUERY, &mut query) }?;
    Ok((query.prog_count > 0).then_some(id))
}

/// `BPF_TCX_INGRESS`: programs that are asked about what comes in by an interface.
const INGRESS: u32 = 46;
/// The most that an interface has (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses for interfaces.
#[repr(C)]
#[derive(Default)]
struct AtInterface {
    query: [u32; 4],
    prog_ids: u64,
    prog_count: u32,
    padding: u32,
    other_lists: [u64; 3],
    revision: u64,
}

const _: () = assert!(size_of::<AtInterface>() == 64);

/// Whether the kernel attaches programs to interfaces by tcx (Linux 6.6).
pub(crate) fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    programs_at(LOOPBACK).is_ok()
}

/// The ids of the programs that the kernel asks about what comes in by an interface (tcx), in their order. Kernels before 6.6 have none, and
/// say `EINVAL`.
pub(crate) fn programs_at(device: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST];
    let mut query = AtInterface {
        query: [device, INGRESS, 0, 0],
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_count: 64,
        ..AtInterface::default()
    };
    // SAFETY: `prog_ids` is the address of room for `prog_count` ids, which lives as long as the call; the other lists are not asked for.
    match unsafe { bpf(PROG_QUERY, &mut query) } {
        Ok(_) => Ok(ids.into_iter().take(usize::try_from(query.prog_count).unwrap_or(0)).collect()),
        // It has none yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
