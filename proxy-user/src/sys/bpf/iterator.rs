//! BPF iterators over one map: aya attaches them to none. And removing an entry whose value only the BPF program knows.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use super::syscall::{bpf, number, owned};

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

/// Ties an iterator to the map whose elements it is to be called with. Nothing calls it before [`run_iterator`].
pub(crate) fn link_iterator(program: &impl AsFd, map: &impl AsFd) -> io::Result<OwnedFd> {
    let target = number(map)?;
    let mut link = Link {
        program: number(program)?,
        target: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        info: (&raw const target).expose_provenance() as u64,
        info_size: 4,
        padding: 0,
    };
    // SAFETY: `info` is the address of 4 bytes, which live as long as the call; the kernel has made the descriptor for us.
    unsafe { bpf(LINK_CREATE, &mut link).map(|fd| owned(fd)) }
}

/// Calls an iterator with each element of its map.
pub(crate) fn run_iterator(link: &impl AsFd) -> io::Result<()> {
    // SAFETY: no addresses; the kernel has made the descriptor for us.
    let mut run = File::from(unsafe { bpf(ITER_CREATE, &mut [number(link)?, 0]).map(|fd| owned(fd)) }?);
    // Reading is what calls it. It writes nothing.
    while run.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Removes the entry of a map whose keys are words, if there is one.
pub(crate) fn delete_entry(map: &impl AsFd, key: u64) -> io::Result<()> {
    let mut entry = Entry { map: number(map)?, padding: 0, key: (&raw const key).expose_provenance() as u64 };
    // SAFETY: `key` is the address of a word, as keys of the map are, which lives as long as the call.
    match unsafe { bpf(MAP_DELETE, &mut entry) } {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
