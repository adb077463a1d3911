//! The only unsafe room of the harness: system calls that the standard library does not offer.
#![expect(
    unsafe_code,
    reason = "setns, kill, sigwait and bpf have no safe form in the dependencies that we have"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::ptr;

/// Moves the calling thread, and no other, into the network namespace that `handle` refers to.
pub(super) fn enter_network_namespace(handle: &File) -> io::Result<()> {
    // SAFETY: setns takes no pointers, and the descriptor is open as long as `handle` is borrowed.
    check(unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Sends a signal to one process.
///
/// # Errors
/// What kill(2) reports, such as ESRCH for a process that is gone.
pub fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers.
    check(unsafe { libc::kill(pid, signal) })
}

/// Keeps SIGINT away from this thread and those that it starts, so that [`wait_for_interrupt`] gets it.
///
/// # Errors
/// What pthread_sigmask(3) reports.
pub fn block_interrupt() -> io::Result<()> {
    let set = interrupt_set();
    // SAFETY: `set` is initialised and outlives the call; the old set is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Returns when SIGINT has arrived. It must be blocked in all threads.
///
/// # Errors
/// What sigwait(3) reports.
pub fn wait_for_interrupt() -> io::Result<()> {
    let set = interrupt_set();
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn interrupt_set() -> libc::sigset_t {
    // SAFETY: all zeros is a valid sigset_t, which sigemptyset then makes an empty set.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live value, and SIGINT is a valid signal number.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
    }
    set
}

/// A kind of BPF object that has system-wide ids, as its command number in bpf(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum BpfKind {
    /// BPF_PROG_GET_NEXT_ID
    Program = 11,
    /// BPF_MAP_GET_NEXT_ID
    Map = 12,
}

/// The ids of all BPF objects of one kind on this machine.
///
/// # Errors
/// What bpf(2) reports, such as EPERM without CAP_SYS_ADMIN.
pub fn bpf_ids(kind: BpfKind) -> io::Result<Vec<u32>> {
    /// The part of `union bpf_attr` that the GET_NEXT_ID commands use.
    #[repr(C)]
    struct NextId {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut ids = Vec::new();
    let mut attr = NextId { start: 0, next: 0, flags: 0 };
    loop {
        // SAFETY: `attr` is a live value of the size that is passed, and the kernel writes only `next`.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, kind as i32, &raw mut attr, size_of::<NextId>()) };
        if answer != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::NotFound { Ok(ids) } else { Err(error) };
        }
        ids.push(attr.next);
        attr.start = attr.next;
    }
}

fn check(answer: i32) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
