//! Memory that this process shares with BPF programs: an array map made with `BPF_F_MMAPABLE`.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The words of such a map, for as long as the value lives, whatever becomes of the map's descriptor.
#[derive(Debug)]
pub(crate) struct SharedWords {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to no thread, and all access to it is atomic.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of the map behind `fd`. An error where it is smaller, or cannot be mapped.
    pub(crate) fn map(fd: &impl AsFd, words: usize) -> io::Result<Self> {
        let bytes = words.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses an address where nothing of ours is. The pages stay until `munmap` below.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, access, flags, fd, 0) }?;
        // Page-aligned, hence aligned for words.
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, words })
    }

    /// `N` words from the word `from` on. None: beyond the end.
    pub(crate) fn get<const N: usize>(&self, from: usize) -> Option<&[AtomicU64; N]> {
        if from.checked_add(N)? > self.words {
            return None;
        }
        // SAFETY: all `N` words are inside the mapping, which lives as long as `self`. Others change them by whole aligned
        // words only, as the kernel's programs do too, and every bit pattern is a valid word.
        Some(unsafe { self.start.add(from).cast::<[AtomicU64; N]>().as_ref() })
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}
