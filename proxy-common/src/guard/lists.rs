//! Which list an address is on, found in a sorted table.
//!
//! Allow and deny lists come down to this: the space of addresses is cut at some boundaries, and all addresses between two of
//! them are on the same list. An index over the first bits leaves few boundaries to search, as the first levels of a trie do.

/// Entries of the index.
pub const SLOTS: usize = 1 << 16;

/// The most boundaries of a family, of which two make a prefix.
pub const MAX_BOUNDARIES: usize = 1 << BOUNDARY_BITS;
const BOUNDARY_BITS: u32 = 18;

const MASK: u32 = (1 << BOUNDARY_BITS) - 1;

/// Steps that the search takes at most: one more than the bits of the number of a boundary.
const STEPS: usize = 19;

/// How far the number of a list is shifted in an entry of the index.
pub const LISTED: u32 = 30;

/// The list that an address is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Listed {
    /// None.
    #[default]
    No = 0,
    /// Allowed, whatever else is said against it.
    Allow = 1,
    /// Denied.
    Deny = 2,
}

impl Listed {
    /// From the number in a table.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Allow,
            2 => Self::Deny,
            _ => Self::No,
        }
    }
}

/// An address as the table sorts it: its first 64 bits, and the rest, which IPv4 has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The first bits.
    pub first: u64,
    /// The rest.
    pub rest: u64,
}

/// Access to the table of one family.
pub trait Listing {
    /// Where the index begins. Its first slot holds all that is before as well, its last all that is after.
    fn base(&self) -> u64;
    /// How far first bits are shifted to make a slot of the index.
    fn shift(&self) -> u32;
    /// The last boundary that is not after the first address of this slot, and above [`LISTED`] the list that addresses from it on
    /// are on. There is one slot more than [`SLOTS`].
    fn slot(&self, slot: usize) -> Option<u32>;
    /// The first bits of a boundary.
    fn first(&self, number: u32) -> Option<u64>;
    /// The rest of it. Nearly always the first bits have decided before, so that these are asked for only after them, and lie
    /// elsewhere: boundaries next to each other share a cache line.
    fn rest(&self, number: u32) -> Option<u64>;
    /// The list that the addresses from a boundary on are on.
    fn listed(&self, number: u32) -> Option<Listed>;
}

/// Finds the list that `key` is on.
#[inline(always)]
pub fn search<L: Listing>(listing: &L, key: Key) -> Listed {
    found(listing, key).unwrap_or_default()
}

#[inline(always)]
fn found<L: Listing>(listing: &L, key: Key) -> Option<Listed> {
    let slot = (key.first.saturating_sub(listing.base()) >> (listing.shift() & 63)).min(SLOTS as u64 - 1);
    let slot = usize::try_from(slot).ok()?;
    let (start, end) = (listing.slot(slot)?, listing.slot(slot + 1)?);
    if start == end {
        return Some(Listed::from_number(u64::from(start >> LISTED)));
    }
    // The masks keep the verifier from telling apart what makes no difference.
    let mut low = start & MASK;
    let mut more = end.wrapping_sub(low) & MASK;
    // The answer is `low`, or one of the `more` that follow.
    for _ in 0..STEPS {
        if more == 0 {
            break;
        }
        let half = (more >> 1) + (more & 1);
        let middle = low.wrapping_add(half) & MASK;
        let first = listing.first(middle)?;
        if first < key.first || (first == key.first && listing.rest(middle)? <= key.rest) {
            low = middle;
            more = more.wrapping_sub(half) & MASK;
        } else {
            more = half.wrapping_sub(1) & MASK;
        }
    }
    listing.listed(low)
}
