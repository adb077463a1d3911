//! The maps of the guard.

use crate::guard::{MAX_BOUNDARIES, PLACES, Place, SKETCH_BITS, SLOTS};

/// Name of the program.
pub const PROGRAM: &str = "guard";
/// Name of the mapped array of one [`Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Name of the mapped array of two [`Lists`], one of which is in use.
pub const LISTS: &str = "LISTS";
/// Name of the per-CPU array of counters, indexed by [`crate::guard::Reason`]. For packets that would have been dropped, had it
/// not been a dry run, [`DRY_RUN`] is added.
pub const COUNTERS: &str = "COUNTERS";
/// Name of the mapped array of two [`Listeners`], one of which is in use.
pub const LISTENERS: &str = "LISTENERS";
/// Name of the map of bans: [`crate::guard::Source`] -> until when, in nanoseconds of the monotonic clock.
pub const BANS: &str = "BANS";
/// Name of the map of sources with live connections: [`crate::guard::Source`] -> anything.
pub const LIVE: &str = "LIVE";
/// Name of the map of [`crate::guard::Bucket`]s, which forgets sources that were not heard of for the longest time.
pub const SOURCES: &str = "SOURCES";
/// Name of the array of the two buckets of the ceiling: for all, and what is kept for sources with live connections.
pub const CEILINGS: &str = "CEILINGS";

/// Sources with live connections.
pub const MAX_LIVE: u32 = 1 << 17;
/// Bans.
pub const MAX_BANS: u32 = 1 << 17;
/// Sources that opened a connection lately, unless the configuration says otherwise.
pub const DEFAULT_SOURCES: u32 = 1 << 16;

/// Length of [`COUNTERS`].
pub const COUNTER_COUNT: u32 = 32;
/// See [`COUNTERS`].
pub const DRY_RUN: u32 = 16;

/// Words of a bitmap of all ports.
pub const PORT_WORDS: usize = 1 << 10;

/// What the daemon tells the program. The words change one by one.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Settings {
    /// Which [`Lists`] are in use: 0 or 1.
    pub generation: u64,
    /// Which [`Listeners`] are in use: 0 or 1.
    pub listeners: u64,
    /// Not 0: packets are counted and never dropped.
    pub dry_run: u64,
    /// Bits of an IPv4 address that make a source.
    pub mask_v4: u64,
    /// Bits of the first half of an IPv6 address that make a source.
    pub mask_v6: u64,
    /// Rate of a source: [`crate::guard::Rate`].
    pub source: [u64; 2],
    /// Rate of all sources.
    pub ceiling: [u64; 2],
    /// Rate that is kept for sources with live connections.
    pub reserve: [u64; 2],
    /// Keeps the ports on cache lines of their own.
    pub spare: [u64; 5],
    /// Ports that any listener has, one bit each.
    pub ports: [u64; PORT_WORDS],
    /// Bits of sources that are banned.
    pub sketch: Sketch,
}

/// All addresses and ports that are listened on.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Listeners {
    /// See [`crate::guard::Endpoints::seed`].
    pub seed: u64,
    /// See [`crate::guard::Endpoints`].
    pub places: [Place; PLACES],
}

/// Words of [`Listeners`].
pub const LISTENER_WORDS: usize = size_of::<Listeners>() / 8;

/// Words of a [`Sketch`].
pub const SKETCH_WORDS: usize = SKETCH_BITS / 64;

/// Bits of sources that are banned: [`crate::guard::Source::bit`].
pub type Sketch = [u64; SKETCH_WORDS];

/// Words of [`Settings`].
pub const ALL_SETTING_WORDS: usize = size_of::<Settings>() / 8;

/// Words of [`Settings`] before the ports.
pub const SETTING_WORDS: usize = 16;
const _: () = assert!(core::mem::offset_of!(Settings, ports) == SETTING_WORDS * 8);

/// Words of the index of a family, which takes half a word for each slot and has one slot more, and then some.
const INDEX: usize = SLOTS + 2;

/// The lists of IPv4 addresses.
#[repr(C)]
pub struct ListsV4 {
    /// See [`crate::guard::Listing::base`].
    pub base: u64,
    /// See [`crate::guard::Listing::shift`].
    pub shift: u64,
    /// See [`crate::guard::Listing::slot`].
    pub slots: [u32; INDEX],
    /// See [`crate::guard::Listing::boundary`].
    pub firsts: [u32; MAX_BOUNDARIES],
    /// See [`crate::guard::Listing::listed`].
    pub listed: [u8; MAX_BOUNDARIES],
}

/// The lists of IPv6 addresses.
#[repr(C)]
pub struct ListsV6 {
    /// See [`crate::guard::Listing::base`].
    pub base: u64,
    /// See [`crate::guard::Listing::shift`].
    pub shift: u64,
    /// See [`crate::guard::Listing::slot`].
    pub slots: [u32; INDEX],
    /// First halves of the boundaries.
    pub firsts: [u64; MAX_BOUNDARIES],
    /// Second halves of the boundaries.
    pub rests: [u64; MAX_BOUNDARIES],
    /// See [`crate::guard::Listing::listed`].
    pub listed: [u8; MAX_BOUNDARIES],
}

/// One generation of lists.
#[repr(C)]
pub struct Lists {
    /// IPv4.
    pub v4: ListsV4,
    /// IPv6.
    pub v6: ListsV6,
}

/// Words of [`Lists`].
pub const LIST_WORDS: usize = size_of::<Lists>() / 8;
const _: () = assert!(size_of::<Lists>().is_multiple_of(8));

/// Where the parts of [`Lists`] begin, in bytes.
pub mod offset {
    use core::mem::offset_of;

    use super::{Lists, ListsV4, ListsV6};

    /// Parts of the lists of one family: base and shift, slots, first halves, second halves (IPv6 only), listed.
    pub type Parts = [usize; 5];

    const V4: usize = offset_of!(Lists, v4);
    const V6: usize = offset_of!(Lists, v6);

    /// IPv4.
    pub const PARTS_V4: Parts = [
        V4 + offset_of!(ListsV4, base),
        V4 + offset_of!(ListsV4, slots),
        V4 + offset_of!(ListsV4, firsts),
        0,
        V4 + offset_of!(ListsV4, listed),
    ];
    /// IPv6.
    pub const PARTS_V6: Parts = [
        V6 + offset_of!(ListsV6, base),
        V6 + offset_of!(ListsV6, slots),
        V6 + offset_of!(ListsV6, firsts),
        V6 + offset_of!(ListsV6, rests),
        V6 + offset_of!(ListsV6, listed),
    ];
}
