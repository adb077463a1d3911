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

/// Name of the map of bytes that userspace has carried on: cookie of the source -> bytes it read and wrote to the target.
/// Userspace is its only writer.
pub const TAKEN: &str = "TAKEN";
/// Name of the constant that holds the offset of `snd_una` in `struct tcp_sock`.
pub const SND_UNA_OFFSET: &str = "SND_UNA_OFFSET";
/// Name of the constant that holds the offset of `write_seq` in `struct tcp_sock`.
pub const WRITE_SEQ_OFFSET: &str = "WRITE_SEQ_OFFSET";

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
    /// Credit: bytes that may be on their way to the target's peer, unacknowledged, before the rest is passed.
    pub limit: u64,
    /// Sequence number of the first byte that the target is given, with [`BASE_KNOWN`] once it is known.
    pub base: u64,
}

/// Bytes go to the target inside the kernel.
pub const REDIRECT: u64 = 0;
/// Bytes stay on the socket, whose receive window closes unless userspace carries them on. Ends by itself as soon as
/// userspace has carried all of them.
pub const PASS: u64 = 1;

/// See [`Direction::base`].
pub const BASE_KNOWN: u64 = 1 << 32;

/// [`Direction`] as the daemon reads and writes it.
pub type DirectionWords = [u64; 7];

const _: () = assert!(size_of::<Direction>() == size_of::<DirectionWords>());
const _: () = assert!(align_of::<Direction>() == align_of::<DirectionWords>());

impl Direction {
    /// A new direction towards `target`, with `limit` bytes of credit.
    #[must_use]
    pub const fn to(target: u64, limit: u64) -> Self {
        Self { target, mode: REDIRECT, redirected: 0, passed: 0, segments: 0, limit, base: 0 }
    }

    /// In the order of the fields.
    #[must_use]
    pub const fn to_words(self) -> DirectionWords {
        [self.target, self.mode, self.redirected, self.passed, self.segments, self.limit, self.base]
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub const fn from_words(words: DirectionWords) -> Self {
        let [target, mode, redirected, passed, segments, limit, base] = words;
        Self { target, mode, redirected, passed, segments, limit, base }
    }

    /// Bytes that the verdict has seen: what TCP received, less what is on its way through the verdict.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.redirected.wrapping_add(self.passed)
    }

    /// Learns the base from the target's `write_seq`, if that can be done: nothing may stand between what was seen and
    /// what was written, so nothing redirected yet, and all that was passed `taken`.
    pub const fn learn_base(&mut self, write_seq: u32, taken: u64) {
        if self.base == 0 && self.redirected == 0 && self.passed == taken {
            self.base = BASE_KNOWN | write_seq.wrapping_sub(low(taken)) as u64;
        }
    }

    /// Whether the target has room for more: fewer than `limit` of the bytes that were seen are still unacknowledged by
    /// its peer, who has acknowledged up to `snd_una`. Without a base nothing is known, so that there is none.
    #[must_use]
    pub const fn has_credit(&self, snd_una: u32) -> bool {
        if self.base == 0 {
            return false;
        }
        let acknowledged = snd_una.wrapping_sub(low(self.base));
        // An acknowledged FIN or SYN can make this -1: then nothing is on its way.
        let unacknowledged = low(self.seen()).wrapping_sub(acknowledged).cast_signed();
        (unacknowledged as i64) <= self.limit.cast_signed()
    }
}

/// Sequence numbers are 32 bits wide, and differences of byte counts wrap with them (RFC 9293 section 3.4).
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(value: u64) -> u32 {
    value as u32
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
    /// Times that a direction ran out of credit.
    CreditStops = 5,
    /// Events that did not fit into the ring.
    LostEvents = 6,
}

/// Length of [`COUNTERS`].
pub const COUNTER_COUNT: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_every_field_in_its_place() {
        let direction =
            Direction { target: 1, mode: PASS, redirected: 3, passed: 4, segments: 5, limit: 6, base: 7 };
        assert_eq!(direction.to_words(), [1, PASS, 3, 4, 5, 6, 7]);
        assert_eq!(Direction::from_words(direction.to_words()), direction);
        assert_eq!(direction.seen(), 7);
    }

    #[test]
    fn credit_counts_unacknowledged_bytes_across_the_wrap_of_sequence_numbers() {
        let start = u32::MAX - 100;
        let mut direction = Direction::to(1, 1000);
        assert!(!direction.has_credit(start), "nothing is known yet");
        direction.learn_base(start, 0);
        assert!(direction.has_credit(start));
        direction.redirected = 1000;
        assert!(direction.has_credit(start));
        direction.passed = 1;
        assert!(!direction.has_credit(start));
        assert!(direction.has_credit(start.wrapping_add(1)));
        // 5 GiB later the 32-bit difference still holds.
        direction.redirected = 5 << 30;
        assert!(direction.has_credit(start.wrapping_add(low(direction.seen()))));
        assert!(
            direction.has_credit(start.wrapping_add(low(direction.seen())).wrapping_add(1)),
            "an acknowledged FIN"
        );
        assert!(!direction.has_credit(start.wrapping_add(low(direction.seen())).wrapping_sub(1001)));
    }

    #[test]
    fn the_base_is_learnt_only_when_nothing_is_between_seen_and_written() {
        let mut direction = Direction { passed: 10, ..Direction::to(1, 1000) };
        direction.learn_base(500, 4);
        assert_eq!(direction.base, 0);
        direction.learn_base(510, 10);
        assert_eq!(direction.base, BASE_KNOWN | 500);
        direction.learn_base(900, 10);
        assert_eq!(direction.base, BASE_KNOWN | 500, "learnt once");
    }
}
