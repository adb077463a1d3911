//! BPF iterators over a map, and what else the loader's library does not do with maps.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Commands (`enum bpf_cmd` in `include/uapi/linux/bpf.h`).
const MAP_DELETE: libc::c_long = 3;
const LINK_CREATE: libc::c_long = 28;
const ITER_CREATE: libc::c_long = 33;

/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for iterators.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_size: u32,
    padding: u32,
}

/// The part that `BPF_MAP_DELETE_ELEM` reads.
#[repr(C)]
struct Entry {
    map: u32,
    padding: u32,
    key: u64,
}

const _: () = assert!(size_of::<Link>() == 32 && size_of::<Entry>() == 16);

fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `attributes`, which is a live value as long as it is told. Addresses in it are those that the callers,
    // all of them in this file, put there: of live memory, as large as the command needs.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

/// Ties an iterator to the map whose elements it is to be called with. Nothing calls it before [`run_iterator`].
pub(crate) fn link_iterator(program: &impl AsFd, map: &impl AsFd) -> io::Result<OwnedFd> {
    let target = number(map)?;
    let link = Link {
        program: number(program)?,
        target: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        info: (&raw const target).expose_provenance() as u64,
        info_size: 4,
        padding: 0,
    };
    let fd = bpf(LINK_CREATE, &link)?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls an iterator with each element of its map.
pub(crate) fn run_iterator(link: &impl AsFd) -> io::Result<()> {
    let fd = bpf(ITER_CREATE, &[number(link)?, 0])?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    let mut run = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // Reading is what calls it. It writes nothing.
    while run.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Removes the entry of a map whose keys are words, if there is one.
pub(crate) fn delete_entry(map: &impl AsFd, key: u64) -> io::Result<()> {
    let entry = Entry { map: number(map)?, padding: 0, key: (&raw const key).expose_provenance() as u64 };
    match bpf(MAP_DELETE, &entry) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
