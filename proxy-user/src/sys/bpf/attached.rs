//! What the loader's library does not ask the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `BPF_PROG_ATTACH` and `BPF_PROG_QUERY` (`include/uapi/linux/bpf.h`).
const PROG_ATTACH: libc::c_int = 8;
const PROG_QUERY: libc::c_int = 16;

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

fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// Attaches a program to a map of sockets, in the place of another one if there is any.
pub(crate) fn attach_to_map(map: &impl AsFd, program: &impl AsFd, kind: u32) -> io::Result<()> {
    let (target_fd, program_fd) = (number(map)?, number(program)?);
    let attachment = Attachment { target_fd, program_fd, attach_type: kind, flags: 0 };
    // SAFETY: both fds are borrowed, so they stay open; the kernel reads `attachment`, a live value of the size that is passed, and
    // takes a reference to the program of its own.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attachment, size_of::<Attachment>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    // SAFETY: `query` is a live value of the size that is passed; `prog_ids` is the address of room for `prog_count` ids,
    // which lives as long. The kernel writes to nothing else.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
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
    // SAFETY: `query` is a live value of the size that is passed; `prog_ids` is the address of room for `prog_count` ids, which lives as
    // long, and the other lists are not asked for. The kernel writes to nothing else.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<AtInterface>()) };
    match result {
        0 => Ok(ids.into_iter().take(usize::try_from(query.prog_count).unwrap_or(0)).collect()),
        _ => match io::Error::last_os_error() {
            // It has none yet.
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            error => Err(error),
        },
    }
}
