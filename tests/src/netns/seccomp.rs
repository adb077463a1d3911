//! A system call that is refused, as profiles of containers do.
#![expect(unsafe_code, reason = "prctl has no safe form in the dependencies that we have")]

use std::io;

use super::sys::check;

/// Has the kernel answer each bpf(2) of this thread, and of what it starts, with EPERM.
///
/// # Errors
/// What prctl(2) reports.
pub fn refuse_bpf() -> io::Result<()> {
    const fn step(code: u16, jump_true: u8, jump_false: u8, value: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt: jump_true, jf: jump_false, k: value }
    }
    let call = u32::try_from(libc::SYS_bpf).map_err(io::Error::other)?;
    // The number of the call: the first word of `struct seccomp_data`. Is it that one? EPERM, or allowed.
    let mut steps = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, call),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).map_err(io::Error::other)?),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the filter and its steps are live during the call, which copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) })
}
