//! Pipes for moving bytes between sockets without copying them. A flow has one only while bytes of it are in our hands.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Bytes that a pipe takes at once. They are pages of the source's receive buffer, which is not charged for them any more: so
/// this bounds what a direction holds beyond its sockets.
pub(super) const SIZE: usize = 1024 * 1024;

/// Pipes that each worker keeps for the next flow.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static OUT: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// Lets this worker lend so many pipes at a time. Before that none.
pub(super) fn allow(most: usize) {
    MOST.set(most);
}

/// A pipe on loan from the pool of this worker.
pub(super) struct Pipe {
    /// None: on its way back to the pool.
    ends: Option<Ends>,
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    /// None: too many are lent, or the system has no descriptor left. The direction copies then: descriptors are for
    /// connections.
    pub(super) fn take() -> Option<Self> {
        if OUT.get() >= MOST.get() {
            return None;
        }
        let ends = POOL.with_borrow_mut(Vec::pop).or_else(|| Ends::open().ok())?;
        OUT.set(OUT.get() + 1);
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes that were taken from a source and not yet given to a target.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Takes what is queued in `source`, up to [`SIZE`] bytes, into the empty pipe. 0: its stream has ended.
    pub(super) fn fill(&mut self, source: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        debug_assert_eq!(self.held, 0, "a full pipe cannot be told from an empty socket");
        let count = splice(source, None, &ends.write, None, SIZE, FLAGS)?;
        self.held += count;
        Ok(count)
    }

    /// Gives `target` as much as it takes.
    pub(super) fn drain(&mut self, target: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match splice(&ends.read, None, target, None, self.held, FLAGS)? {
            // Bytes are there, so that this is no answer at all: whoever asked would ask for ever.
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => {
                self.held = self.held.saturating_sub(count);
                Ok(count)
            }
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Drop for Pipe {
    fn drop(&mut self) {
        // At the end of the thread these may be gone before a last flow is.
        let _ = OUT.try_with(|out| out.set(out.get().saturating_sub(1)));
        let Some(ends) = self.ends.take() else { return };
        if self.held > 0 {
            // The next flow must not be given these bytes.
            return;
        }
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(ends);
            }
        });
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A pipe has a place for each piece of a segment, whatever its length: with the 16 places of a new one it would be full
        // long before SIZE. Without the right to a large one (`/proc/sys/fs/pipe-max-size`), a small one does.
        let _ = fcntl_setpipe_size(&write, SIZE);
        Ok(Self { read, write })
    }
}
