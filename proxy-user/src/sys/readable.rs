//! Descriptors of the kernel's own kinds in the runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `inner` with the current runtime, for reading. `inner` must own its descriptor and not change it, as every
/// type does that is made of an `OwnedFd`.
pub(crate) fn readable<T: AsFd + AsRawFd + 'static>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: AsFd promises an open descriptor as long as `inner` lives, which is as long as the AsyncFd does. The types
    // this is called with (Poller, Changes, Moves, Signals, and aya's ring buffer and logger) own it and never replace it.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }.map_err(Into::into)
}
