//! The system call, and what its callers share.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A command of bpf(2).
///
/// # Safety
/// `attributes` begins as the command's part of `union bpf_attr` does. Addresses in it are those of live memory, as large as the
/// command needs, which the kernel may read, and write where the command says so.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes `attributes`, a live value as long as it is told. The caller vouches for the addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

/// A descriptor as attributes have it.
pub(super) fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// The descriptor that a command has returned.
///
/// # Safety
/// The kernel has just made it, and nobody else has it.
pub(super) unsafe fn owned(fd: i32) -> OwnedFd {
    // SAFETY: as the caller vouches.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
