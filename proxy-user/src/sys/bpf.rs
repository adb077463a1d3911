//! What the loader's library does not ask the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `BPF_PROG_QUERY` and `BPF_SK_SKB_STREAM_VERDICT` (`include/uapi/linux/bpf.h`).
const PROG_QUERY: libc::c_int = 16;
const STREAM_VERDICT: u32 = 5;

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

/// The id of the stream verdict that is attached to a map of sockets. None: there is none. Kernels before 5.17 do not tell
/// (`EINVAL`).
pub(crate) fn attached_verdict(map: &impl AsFd) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    let target_fd = u32::try_from(map.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut query = Query {
        target_fd,
        attach_type: STREAM_VERDICT,
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
