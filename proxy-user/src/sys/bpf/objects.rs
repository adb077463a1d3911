//! Attaching an XDP program to an interface, so that it is the link that owns the attachment: whoever holds no descriptor of the
//! link any more, and has not pinned it, is attached no more.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands (`enum bpf_cmd` in `include/uapi/linux/bpf.h`).
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// `BPF_XDP` and `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (`include/uapi/linux/if_link.h`).
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// Entries of a map that are counted at a time.
const BATCH: usize = 4096;

/// A command whose attributes are so many words of 32 bits.
fn bpf<const N: usize>(command: libc::c_long, attributes: &mut [u32; N]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes the attributes, which are as long as it is told. Addresses in them are those that the
    // callers, all of them in this file, put there: of live memory, as large as the command needs.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An address as two words, as they stand in memory.
fn halves<T>(pointer: *const T) -> [u32; 2] {
    let bytes = (pointer.expose_provenance() as u64).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// Attaches a program to an interface in one of the two modes.
pub(crate) fn attach_xdp(program: &impl AsFd, interface: u32, native: bool) -> io::Result<OwnedFd> {
    let mode = if native { NATIVE } else { GENERIC };
    bpf(LINK_CREATE, &mut [number(program)?, interface, XDP, mode]).map(owned)
}

/// Whether the kernel attaches programs to interfaces by tcx (Linux 6.6): it answers what is attached so to the loopback, or that
/// nothing is.
pub(crate) fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    // The interface, the type, and room for what the kernel writes, up to the revision.
    let asked = bpf(PROG_QUERY, &mut [LOOPBACK, TCX_INGRESS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    asked.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |_| true)
}

/// Puts another program in the place of the one that is attached, without a packet in between.
pub(crate) fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    bpf(LINK_UPDATE, &mut [number(link)?, number(program)?, 0, 0]).map(drop)
}

/// The interface that a link is attached to. None: it is gone, or the link was detached.
pub(crate) fn link_interface(link: &impl AsFd) -> io::Result<Option<u32>> {
    let [_, _, _, _, interface, ..] = link_info(link)?;
    Ok((interface != 0).then_some(interface))
}

/// The interface of a link, as above, and the id of its program: one question, since for each the kernel waits for its lock of
/// interfaces (rtnl).
pub(crate) fn link_at(link: &impl AsFd) -> io::Result<(Option<u32>, u32)> {
    let [_, _, program, _, interface, ..] = link_info(link)?;
    Ok(((interface != 0).then_some(interface), program))
}

/// The head of `struct bpf_link_info`: type, id, program, padding, and for links of XDP and tcx the interface.
fn link_info(link: &impl AsFd) -> io::Result<[u32; 8]> {
    let mut info = [0_u32; 8];
    let [low, high] = halves(info.as_mut_ptr());
    let length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    bpf(OBJ_GET_INFO, &mut [number(link)?, length, low, high])?;
    Ok(info)
}

/// Detaches the program of a link from its interface, also while other processes have the link open.
pub(crate) fn detach_link(link: &impl AsFd) -> io::Result<()> {
    bpf(LINK_DETACH, &mut [number(link)?]).map(drop)
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
    bpf(OBJ_PIN, &mut [low, high, number(link)?, 0]).map(drop)
}

/// Opens what was pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let [low, high] = halves(path.as_ptr());
    bpf(OBJ_GET, &mut [low, high, 0, 0]).map(owned)
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
        let result = bpf(MAP_LOOKUP_BATCH, &mut attributes);
        let [_, _, _, _, _, _, _, _, found, ..] = attributes;
        match result {
            Ok(_) => (total, is_first) = (total + u64::from(found), false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(total + u64::from(found)),
            Err(error) => return Err(error),
        }
    }
}

/// Returns once no BPF program runs any more that was running when it was called.
pub(crate) fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` (`include/uapi/linux/membarrier.h`): the kernel waits for a grace period of RCU, under which programs
    /// of interfaces run. It does not on hosts with processors without ticks.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
