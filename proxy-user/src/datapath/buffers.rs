//! Buffers for copying. A flow has one only while bytes of it are in our hands, so that idle flows cost none.

use std::cell::RefCell;

/// Large enough that a system call's cost is small beside the copying, small enough to stay in the cache: with 64 KiB one
/// bulk flow moved 23 Gbit/s here, and between 20 and 31 with this (`cargo xtask bench --only bulk`).
pub(super) const SIZE: usize = 256 * 1024;

/// Buffers that each worker keeps for the next flow: enough for those that are busy in one turn of its loop.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan from the pool of this worker.
pub(super) struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    pub(super) fn take() -> Self {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        Self(Some(pooled.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(buffer) = self.0.take() else { return };
        // At the end of the thread the pool may be gone before a last flow is.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(buffer);
            }
        });
    }
}
