//! Links, pins and maps by their descriptors. aya attaches programs and replaces them, but its links tell neither their descriptor
//! nor their interface, cannot be detached while others have them open, and are pinned only once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::syscall::{bpf, number, owned};

/// Commands (`enum bpf_cmd` in `include/uapi/linux/bpf.h`).
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_DETACH: libc::c_long = 34;

/// Entries of a map that are counted at a time.
const BATCH: usize = 4096;

/// An address as two words, as they stand in memory.
fn halves<T>(pointer: *const T) -> [u32; 2] {
    let bytes = (pointer.expose_provenance() as u64).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The interface that a link is attached to, and the id of its program. No interface: it is gone, or the link was detached. One
/// question for both, since for each the kernel waits for its lock of interfaces (rtnl).
pub(crate) fn link_at(link: &impl AsFd) -> io::Result<(Option<u32>, u32)> {
    let [_, _, program, _, interface, ..] = link_info(link)?;
    Ok(((interface != 0).then_some(interface), program))
}

/// The head of `struct bpf_link_info`: type, id, program, padding, and for links of XDP and tcx the interface.
fn link_info(link: &impl AsFd) -> io::Result<[u32; 8]> {
    let mut info = [0_u32; 8];
    let [low, high] = halves(info.as_mut_ptr());
    let length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: a descriptor, and the address of `info`, which is live and as long as is said.
    unsafe { bpf(OBJ_GET_INFO, &mut [number(link)?, length, low, high]) }?;
    Ok(info)
}

/// Detaches the program of a link from its interface, also while other processes have the link open.
pub(crate) fn detach_link(link: &impl AsFd) -> io::Result<()> {
    // SAFETY: no addresses.
    unsafe { bpf(LINK_DETACH, &mut [number(link)?]) }.map(drop)
}

/// The id of a program, map or link.
pub(crate) fn object_id(object: &impl AsFd) -> io::Result<u32> {
    // It stands behind the type in what the kernel says of each of them.
    let [_, id, ..] = link_info(object)?;
    Ok(id)
}

/// Gives a link, a map or a program a name in a BPF file system, which holds it from then on.
pub(crate) fn pin(link: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let [low, high] = halves(path.as_ptr());
    // SAFETY: the address is that of a C string, which lives as long as the call.
    unsafe { bpf(OBJ_PIN, &mut [low, high, number(link)?, 0]) }.map(drop)
}

/// Opens what was pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let [low, high] = halves(path.as_ptr());
    // SAFETY: the address is that of a C string, which lives as long as the call; the kernel has made the descriptor for us.
    unsafe { bpf(OBJ_GET, &mut [low, high, 0, 0]).map(|fd| owned(fd)) }
}

/// How many entries a hash map with keys and values of 8 bytes has, more or less, since it changes meanwhile.
pub(crate) fn count_entries(map: &impl AsFd) -> io::Result<u64> {
    let (mut keys, mut values) = (vec![0_u64; BATCH], vec![0_u64; BATCH]);
    let (mut place, mut total, mut is_first) = (0_u32, 0, true);
    loop {
        let before = place;
        let [in_low, in_high] = if is_first { [0; 2] } else { halves(&raw const before) };
        let [out_low, out_high] = halves(&raw mut place);
        let [keys_low, keys_high] = halves(keys.as_mut_ptr());
        let [values_low, values_high] = halves(values.as_mut_ptr());
        let count = u32::try_from(BATCH).map_err(io::Error::other)?;
        let mut attributes = [
            in_low,
            in_high,
            out_low,
            out_high,
            keys_low,
            keys_high,
            values_low,
            values_high,
            count,
            number(map)?,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: the addresses are those of two positions, and of space for as many keys and values as is said; all outlive the call.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attributes) };
        let [_, _, _, _, _, _, _, _, found, ..] = attributes;
        match result {
            Ok(_) => (total, is_first) = (total + u64::from(found), false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(total + u64::from(found)),
            Err(error) => return Err(error),
        }
    }
}
