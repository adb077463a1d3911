//! Whether a direction streams, so that moving its pages costs less than copying its bytes.

/// A read of so many bytes is a long one. Below, the system calls weigh more than the bytes.
const LONG: usize = 32 * 1024;

/// So many long reads in a row make a stream, so that a message of a few hundred KiB is none.
const STREAM: u8 = 8;

/// The last reads of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct BulkDetector {
    long: u8,
    /// One short read in a stream may be the sender's pause: two are the end of it.
    missed: bool,
}

impl BulkDetector {
    /// A read brought `count` bytes.
    pub const fn note(&mut self, count: usize) {
        if count >= LONG {
            self.long = if self.long < STREAM { self.long + 1 } else { STREAM };
            self.missed = false;
        } else if self.missed {
            self.long = 0;
        } else {
            self.missed = true;
        }
    }

    /// Whether the direction streams.
    #[must_use]
    pub const fn streams(&self) -> bool {
        self.long >= STREAM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reads: &[usize]) -> bool {
        let mut bulk = BulkDetector::default();
        for &count in reads {
            bulk.note(count);
        }
        bulk.streams()
    }

    #[test]
    fn long_reads_in_a_row_make_a_stream() {
        assert!(!after(&[LONG; 7]));
        assert!(after(&[LONG; 8]));
        assert!(after(&[usize::MAX; 1000]));
    }

    #[test]
    fn one_short_read_does_not_end_it_two_do() {
        assert!(after(&[&[LONG; 8][..], &[1]].concat()));
        assert!(after(&[&[LONG; 8][..], &[1], &[LONG], &[1]].concat()));
        assert!(!after(&[&[LONG; 8][..], &[1, 1]].concat()));
        assert!(!after(&[1; 100]));
    }
}
