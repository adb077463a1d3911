//! Waiting for what runs in the kernel at this moment.

use std::io;

/// `MEMBARRIER_CMD_GLOBAL` (`include/uapi/linux/membarrier.h`).
const GLOBAL: libc::c_int = 1;

/// Returns once every packet that was on its way through the kernel's receiving side when it was called has come to its
/// end there: the command waits for a grace period of RCU, which packets hold off (`synchronize_rcu` in
/// `kernel/sched/membarrier.c`). 10 to 30 ms.
pub(crate) fn wait_for_packets() -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_returns() {
        super::wait_for_packets().unwrap();
    }
}
