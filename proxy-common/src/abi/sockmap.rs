//! The maps of the sockmap datapath. The key of all of them is a socket cookie (`SO_COOKIE`), which the kernel
//! never uses twice.

/// Name of the map that holds the spliced sockets: cookie -> socket (`BPF_MAP_TYPE_SOCKHASH`).
pub const SOCKETS: &str = "SOCKETS";
/// Name of the map that holds one [`Direction`] for each spliced socket: cookie -> direction.
pub const DIRECTIONS: &str = "DIRECTIONS";
/// Name of the per-CPU array of counters, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Name of the ring buffer of cookies whose direction began to pass bytes to userspace.
pub const EVENTS: &str = "EVENTS";
/// Name of the program.
pub const PROGRAM: &str = "splice";

/// Most sockets that can be spliced at once: two for each flow.
pub const MAX_SOCKETS: u32 = 1 << 17;
/// Size of the ring buffer in bytes: 4,096 events of 8 bytes with their 8-byte headers.
pub const EVENTS_BYTES: u32 = 1 << 16;

/// The bytes that one socket has received since it was spliced, and where they go.
///
/// The daemon writes it once, before the socket is inserted. From then on the verdict program is the only writer:
/// it runs under the socket's lock, so its updates need no atomics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Direction {
    /// Cookie of the socket that the bytes go to.
    pub target: u64,
    /// [`REDIRECT`] or [`PASS`].
    pub mode: u64,
    /// Bytes handed to the target inside the kernel.
    pub redirected: u64,
    /// Bytes left on this socket for userspace to read.
    pub passed: u64,
    /// Segments seen, however they went.
    pub segments: u64,
}

/// Bytes go to the target inside the kernel.
pub const REDIRECT: u64 = 0;
/// Bytes stay on the socket: userspace carries this direction to its end. Once set it stays.
pub const PASS: u64 = 1;

/// [`Direction`] as the daemon reads and writes it.
pub type DirectionWords = [u64; 5];

const _: () = assert!(size_of::<Direction>() == size_of::<DirectionWords>());
const _: () = assert!(align_of::<Direction>() == align_of::<DirectionWords>());

impl Direction {
    /// A new direction towards `target`.
    #[must_use]
    pub const fn to(target: u64, mode: u64) -> Self {
        Self { target, mode, redirected: 0, passed: 0, segments: 0 }
    }

    /// In the order of the fields.
    #[must_use]
    pub const fn to_words(self) -> DirectionWords {
        [self.target, self.mode, self.redirected, self.passed, self.segments]
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub const fn from_words(words: DirectionWords) -> Self {
        let [target, mode, redirected, passed, segments] = words;
        Self { target, mode, redirected, passed, segments }
    }

    /// Bytes that the verdict has seen: what TCP received, less what is on its way through the verdict.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.redirected.wrapping_add(self.passed)
    }
}

/// Index into [`COUNTERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Bytes handed to another socket inside the kernel.
    RedirectedBytes = 0,
    /// Segments handed to another socket inside the kernel.
    RedirectedSegments = 1,
    /// Bytes left to userspace.
    PassedBytes = 2,
    /// Redirects that the kernel refused: the target had gone.
    RedirectFailures = 3,
    /// Segments of a socket without a direction.
    UnknownSockets = 4,
}

/// Length of [`COUNTERS`].
pub const COUNTER_COUNT: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_every_field_in_its_place() {
        let direction = Direction { target: 1, mode: PASS, redirected: 3, passed: 4, segments: 5 };
        assert_eq!(direction.to_words(), [1, PASS, 3, 4, 5]);
        assert_eq!(Direction::from_words(direction.to_words()), direction);
        assert_eq!(direction.seen(), 7);
    }
}
