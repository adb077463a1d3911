//! Waiting for what runs in the kernel at this moment.

use std::io;
use std::thread;
use std::time::Duration;

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

/// Returns once no BPF program of an interface runs any more that was running when it was called: they run under RCU, too. On hosts with
/// processors without ticks the command fails, and this waits for longer than programs run.
pub(crate) fn wait_for_programs() {
    if wait_for_packets().is_err() {
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_returns() {
        super::wait_for_packets().unwrap();
    }
}
