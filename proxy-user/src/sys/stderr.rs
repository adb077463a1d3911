//! Standard error, for one writer.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, poll};

/// Waits for room if the descriptor does not: who started us may have made it non-blocking, since it is shared. Takes no
/// lock, so that nobody else waits for who waits here.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match rustix::io::write(&stderr, bytes) {
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The device and the inode of stderr.
pub(crate) fn identity_of_stderr() -> Option<(u64, u64)> {
    let found = rustix::fs::fstat(io::stderr()).ok()?;
    Some((found.st_dev, found.st_ino))
}
