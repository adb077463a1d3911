//! The maps of the sockmap datapath.
//!
//! A spliced socket is known by its cookie (`SO_COOKIE`), which the kernel never uses twice. What the verdict and the
//! daemon tell each other of it is one [`Direction`] in memory that both have mapped: neither needs a system call to read the
//! other.

use super::credit::{CEILING, FLOOR, Pace, low};

/// Name of the map that holds the spliced sockets: cookie -> socket (`BPF_MAP_TYPE_SOCKHASH`).
pub const SOCKETS: &str = "SOCKETS";
/// Name of the map that says where the [`Direction`] of a socket is: cookie -> index into [`DIRECTIONS`].
pub const SLOTS: &str = "SLOTS";
/// Name of the mapped array of [`Direction`]s.
pub const DIRECTIONS: &str = "DIRECTIONS";
/// Name of the per-CPU array of counters, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Name of the ring buffer of cookies of sockets that userspace has to look at.
pub const EVENTS: &str = "EVENTS";
/// Name of the program.
pub const PROGRAM: &str = "splice";

/// Most sockets that can be spliced at once: two for each flow.
pub const MAX_SOCKETS: u32 = 1 << 17;
/// Size of the ring buffer in bytes: 4,096 events of 8 bytes with their 8-byte headers.
pub const EVENTS_BYTES: u32 = 1 << 16;

/// Names of the constants that hold offsets of fields of the kernel's structures, and of the structures and fields.
pub const OFFSETS: [(&str, &str, &str); 8] = [
    ("SND_UNA_OFFSET", "tcp_sock", "snd_una"),
    ("WRITE_SEQ_OFFSET", "tcp_sock", "write_seq"),
    ("SRTT_US_OFFSET", "tcp_sock", "srtt_us"),
    ("COPIED_SEQ_OFFSET", "tcp_sock", "copied_seq"),
    ("CONTROL_OFFSET", "sk_buff", "cb"),
    ("USER_DATA_OFFSET", "sock", "sk_user_data"),
    ("INGRESS_OFFSET", "sk_psock", "ingress_skb"),
    ("QUEUE_LENGTH_OFFSET", "sk_buff_head", "qlen"),
];

/// The bytes that one socket receives while it is spliced, and where they go.
///
/// Written whole by the daemon before the verdict can find it. From then on the first of its three cache lines is the
/// verdict's, which runs under the socket's lock, the second the daemon's, and the third the bypass's: each word has one writer,
/// so that no update needs an atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Direction {
    /// Bytes handed to the target inside the kernel.
    pub redirected: u64,
    /// Bytes left on this socket for userspace to carry. While that has [`taken`](Self::taken) fewer, the others follow: they
    /// stay on the socket, whose receive window closes unless userspace goes on.
    pub passed: u64,
    /// The credit that the target had when it was last asked, in bytes.
    pub credit: u64,
    /// Sequence number of the first byte that the target is given, with [`BASE_KNOWN`] once it is known.
    pub base: u64,
    /// When the last segment came, in nanoseconds of the monotonic clock. 0: none yet.
    pub active_ns: u64,
    /// How fast the target's peer acknowledges.
    pub pace: Pace,

    /// Cookie of the socket. 0: nobody's.
    pub source: u64,
    /// Cookie of the socket that the bytes go to.
    pub target: u64,
    /// Where the direction of that socket is.
    pub back: u64,
    /// Of the passed bytes, how many userspace has written to the target.
    pub taken: u64,
    /// Credit: bytes that may be on their way to the target's peer, unacknowledged, before the rest is passed: at least
    /// these,
    pub floor: u64,
    /// and at most these.
    pub ceiling: u64,
    /// Userspace wants to be told once so many bytes were seen.
    pub call_at: u64,
    /// Other than 0: bytes are left for userspace, whatever the credit.
    pub hold: u64,

    /// Bytes that the target was given past the source ([`super::local`]). Written under the lock of the socket that sends
    /// them.
    pub beside: u64,
    /// Sequence number of the first byte that the source received for the verdict, with [`BASE_KNOWN`] once it is known. The
    /// verdict's.
    pub start: u64,
    /// Fills the cache line, 0.
    pub spare: [u64; 6],
}

/// Words of a [`Direction`].
pub const DIRECTION_WORDS: usize = size_of::<Direction>() / size_of::<u64>();

const _: () = assert!(size_of::<Direction>() == 192);
const _: () = assert!(core::mem::offset_of!(Direction, source) == 64);
const _: () = assert!(core::mem::offset_of!(Direction, beside) == 128);

/// Where a direction is: its index in [`DIRECTIONS`], and the cookie that is its [`Direction::source`] as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index.
    pub slot: u32,
    /// Cookie.
    pub cookie: u64,
}

/// Words that the daemon writes while the verdict reads: their index in a [`Direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// [`Direction::source`].
    Source = 8,
    /// [`Direction::back`].
    Back = 10,
    /// [`Direction::taken`].
    Taken = 11,
    /// [`Direction::ceiling`].
    Ceiling = 13,
    /// [`Direction::call_at`].
    CallAt = 14,
    /// [`Direction::hold`].
    Hold = 15,
    /// [`Direction::beside`], which the daemon writes while nothing else does.
    Beside = 16,
}

const _: () = assert!(core::mem::offset_of!(Direction, back) == Word::Back as usize * 8);
const _: () = assert!(core::mem::offset_of!(Direction, taken) == Word::Taken as usize * 8);
const _: () = assert!(core::mem::offset_of!(Direction, ceiling) == Word::Ceiling as usize * 8);
const _: () = assert!(core::mem::offset_of!(Direction, call_at) == Word::CallAt as usize * 8);
const _: () = assert!(core::mem::offset_of!(Direction, hold) == Word::Hold as usize * 8);
const _: () = assert!(core::mem::offset_of!(Direction, beside) == Word::Beside as usize * 8);

/// See [`Direction::base`].
pub const BASE_KNOWN: u64 = 1 << 32;

/// What the verdict asks a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The first byte that its peer has not acknowledged.
    pub snd_una: u32,
    /// The byte after the last one that was written to it.
    pub write_seq: u32,
    /// Smoothed round trip, in microseconds.
    pub round_trip_us: u32,
}

impl Direction {
    /// A new direction from the socket `source` to `target`, whose credit follows the pace of the target's peer.
    #[must_use]
    pub const fn new(source: u64, target: u64) -> Self {
        Self::with_credit(source, target, FLOOR, CEILING)
    }

    /// The same with other bounds of the credit.
    #[must_use]
    pub const fn with_credit(source: u64, target: u64, floor: u64, ceiling: u64) -> Self {
        Self {
            redirected: 0,
            passed: 0,
            credit: 0,
            base: 0,
            active_ns: 0,
            pace: Pace { begun_ns: 0, begun_una: 0, before: 0 },
            source,
            target,
            back: 0,
            taken: 0,
            floor,
            ceiling,
            call_at: u64::MAX,
            hold: 0,
            beside: 0,
            start: 0,
            spare: [0; 6],
        }
    }

    /// In the order of the fields.
    #[must_use]
    pub const fn to_words(self) -> [u64; DIRECTION_WORDS] {
        let Pace { begun_ns, begun_una, before } = self.pace;
        let [s0, s1, s2, s3, s4, s5] = self.spare;
        #[rustfmt::skip]
        let words = [
            self.redirected, self.passed, self.credit, self.base, self.active_ns, begun_ns, begun_una, before,
            self.source, self.target, self.back, self.taken, self.floor, self.ceiling, self.call_at, self.hold,
            self.beside, self.start, s0, s1, s2, s3, s4, s5,
        ];
        words
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub const fn from_words(words: [u64; DIRECTION_WORDS]) -> Self {
        #[rustfmt::skip]
        let [
            redirected, passed, credit, base, active_ns, begun_ns, begun_una, before,
            source, target, back, taken, floor, ceiling, call_at, hold,
            beside, start, s0, s1, s2, s3, s4, s5,
        ] = words;
        #[rustfmt::skip]
        let direction = Self {
            redirected, passed, credit, base, active_ns, pace: Pace { begun_ns, begun_una, before },
            source, target, back, taken, floor, ceiling, call_at, hold,
            beside, start, spare: [s0, s1, s2, s3, s4, s5],
        };
        direction
    }

    /// Whether all that was left to userspace is carried.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.passed == self.taken
    }

    /// Bytes that the verdict has seen: what TCP received, less what is on its way through the verdict.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.redirected.wrapping_add(self.passed)
    }

    /// How many bytes at the head of a segment that begins at `seq` were seen before. TCP queues a segment whole of which it has
    /// a part already (`tcp_data_queue`), and readers skip that part; the verdict is given it. `unread`: the first byte that
    /// nobody has read, for the first segment. None: bytes are missing before it.
    pub const fn repeated(&mut self, seq: u32, unread: u32) -> Option<u32> {
        if self.start == 0 {
            self.start = BASE_KNOWN | unread as u64;
        }
        let repeated = low(self.start).wrapping_add(low(self.seen())).wrapping_sub(seq);
        if repeated.cast_signed() < 0 { None } else { Some(repeated) }
    }

    /// Whether the target has room for more: no more than the credit of the bytes that were seen are still
    /// unacknowledged by its peer. Without a base nothing is known, so that there is none.
    pub fn has_credit(&mut self, target: &Target, taken: u64, now_ns: u64) -> bool {
        self.learn_base(target.write_seq, taken);
        let pace = self.pace.credit(now_ns, target.snd_una, target.round_trip_us);
        self.credit = pace.max(self.floor).min(self.ceiling);
        self.base != 0 && self.unacknowledged(target.snd_una) <= self.credit.cast_signed()
    }

    /// Learns the base from the target's `write_seq`, if that can be done: nothing may stand between what was seen and
    /// what was written, so nothing redirected yet, and all that was passed `taken`.
    const fn learn_base(&mut self, write_seq: u32, taken: u64) {
        if self.base == 0 && self.redirected == 0 && self.passed == taken {
            self.base = BASE_KNOWN | write_seq.wrapping_sub(low(taken)) as u64;
        }
    }

    /// Bytes that were seen, or given to the target beside, and that the target's peer, who has acknowledged up to `snd_una`, has not acknowledged yet. An
    /// acknowledged FIN or SYN can make this -1: then nothing is on its way.
    #[must_use]
    pub const fn unacknowledged(&self, snd_una: u32) -> i64 {
        let acknowledged = snd_una.wrapping_sub(low(self.base));
        low(self.seen().wrapping_add(self.beside)).wrapping_sub(acknowledged).cast_signed() as i64
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
    /// Times that a direction ran out of credit.
    CreditStops = 5,
    /// Events that did not fit into the ring.
    LostEvents = 6,
    /// Bytes redirected beyond the credit, because the socket's own queue did not let them pass.
    OverdrawnBytes = 7,
    /// Bytes that TCP had received before, and that the verdict cut off.
    RepeatedBytes = 8,
    /// Segments that did not fit to what came before them, and could not be made to. Nothing of their flow is carried any more.
    MisfitSegments = 9,
}

/// Length of [`COUNTERS`].
pub const COUNTER_COUNT: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target { snd_una: 0, write_seq: 0, round_trip_us: 100 };

    #[test]
    fn words_keep_every_field_in_its_place() {
        let words = core::array::from_fn(|n| n as u64);
        assert_eq!(Direction::from_words(words).to_words(), words);
        let direction = Direction::from_words(words);
        assert_eq!((direction.source, direction.taken), (Word::Source as u64, Word::Taken as u64));
        assert_eq!(direction.ceiling, Word::Ceiling as u64);
        assert_eq!(direction.seen(), 1);
    }

    #[test]
    fn credit_counts_unacknowledged_bytes_across_the_wrap_of_sequence_numbers() {
        let start = u32::MAX - 100;
        let mut direction = Direction::with_credit(1, 2, 1000, 1000);
        let has_credit = |direction: &mut Direction, snd_una| {
            direction.has_credit(&Target { snd_una, write_seq: start, ..TARGET }, 0, 1)
        };
        assert!(has_credit(&mut direction, start));
        direction.redirected = 1000;
        assert!(has_credit(&mut direction, start));
        direction.passed = 1;
        assert!(!has_credit(&mut direction, start));
        assert!(has_credit(&mut direction, start.wrapping_add(1)));
        // 5 GiB later the 32-bit difference still holds.
        direction.redirected = 5 << 30;
        let seen = low(direction.seen());
        assert!(has_credit(&mut direction, start.wrapping_add(seen)));
        assert!(has_credit(&mut direction, start.wrapping_add(seen).wrapping_add(1)), "an acknowledged FIN");
        assert!(!has_credit(&mut direction, start.wrapping_add(seen).wrapping_sub(1001)));
    }

    #[test]
    fn what_was_seen_before_is_found_across_the_wrap_of_sequence_numbers() {
        let start = u32::MAX - 10;
        let mut direction = Direction::new(1, 2);
        assert_eq!(direction.repeated(start, start), Some(0));
        direction.redirected = 100;
        assert_eq!(direction.repeated(start.wrapping_add(100), 0), Some(0));
        assert_eq!(direction.repeated(start.wrapping_add(101), 0), None);
        assert_eq!(direction.repeated(start.wrapping_add(93), 0), Some(7));
        direction.passed = 5 << 32;
        assert_eq!(direction.repeated(start.wrapping_add(99), 0), Some(1));
        let mut late = Direction::new(1, 2);
        assert_eq!(late.repeated(500, 510), Some(10), "the first segment repeats what was read before");
    }

    #[test]
    fn the_base_is_learnt_only_when_nothing_is_between_seen_and_written() {
        let mut direction = Direction { passed: 10, ..Direction::new(1, 2) };
        direction.learn_base(500, 4);
        assert_eq!(direction.base, 0);
        assert!(!direction.has_credit(&TARGET, 4, 1), "nothing is known yet");
        direction.learn_base(510, 10);
        assert_eq!(direction.base, BASE_KNOWN | 500);
        direction.learn_base(900, 10);
        assert_eq!(direction.base, BASE_KNOWN | 500, "learnt once");
    }

    #[test]
    fn credit_follows_the_pace_between_its_bounds() {
        let mut direction = Direction::new(1, 2);
        assert!(direction.has_credit(&TARGET, 0, 1));
        direction.redirected = FLOOR + 1;
        assert!(!direction.has_credit(&TARGET, 0, 1), "nothing was acknowledged");
        direction.redirected = 3 * FLOOR;
        let target = Target { snd_una: low(FLOOR), ..TARGET };
        assert!(direction.has_credit(&target, 0, 2), "the peer is quick");
        direction.ceiling = FLOOR;
        assert!(!direction.has_credit(&target, 0, 3));
    }
}
