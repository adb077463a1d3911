//! Makes the sorted table of [`super::lists`] from allow and deny lists.

use ipnet::IpNet;

use super::lists::{Key, LISTED, Listed, Listing, MAX_BOUNDARIES, SLOTS};
use crate::abi::guard::offset::{PARTS_V4, PARTS_V6, Parts};

/// One boundary of so many may be outside of what the index looks at closely.
const OUTSIDE: usize = 20;

/// More prefixes than the table has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lists have {0} boundaries of one family, and there is room for {MAX_BOUNDARIES}")]
pub struct TooMany(usize);

/// The lists of both families, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// IPv4.
    pub v4: FamilyTable,
    /// IPv6.
    pub v6: FamilyTable,
}

/// The lists of one family, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyTable {
    base: u64,
    shift: u32,
    slots: Vec<u32>,
    boundaries: Vec<(Key, Listed)>,
}

impl Table {
    /// Compiles the lists. What is on both is allowed.
    ///
    /// # Errors
    /// They are too long.
    pub fn build(
        allow: impl IntoIterator<Item = IpNet>,
        deny: impl IntoIterator<Item = IpNet>,
    ) -> Result<Self, TooMany> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let allow = allow.into_iter().map(|net| (net, Listed::Allow));
        for (net, listed) in allow.chain(deny.into_iter().map(|net| (net, Listed::Deny))) {
            match net {
                IpNet::V4(net) => {
                    let ends = [net.network(), net.broadcast()].map(|end| u128::from(u32::from(end)) << 64);
                    v4.push((ends, listed));
                }
                IpNet::V6(net) => v6.push(([net.network(), net.broadcast()].map(u128::from), listed)),
            }
        }
        Ok(Self { v4: FamilyTable::build(&v4, 1 << 64)?, v6: FamilyTable::build(&v6, 1)? })
    }

    /// As the program reads it: calls `put` with the number of each word that is in use, and the word.
    pub fn write(&self, mut put: impl FnMut(usize, u64)) {
        self.v4.write(&PARTS_V4, &mut put);
        self.v6.write(&PARTS_V6, &mut put);
    }
}

/// First and last address, and the list that they are on.
type Range = ([u128; 2], Listed);

impl FamilyTable {
    /// `step`: from one address to the next.
    fn build(ranges: &[Range], step: u128) -> Result<Self, TooMany> {
        let boundaries = boundaries(ranges, step);
        if boundaries.len() > MAX_BOUNDARIES {
            return Err(TooMany(boundaries.len()));
        }
        let (base, shift) = focus(&boundaries);
        let slots = slots(&boundaries, base, shift);
        Ok(Self { base, shift, slots, boundaries })
    }

    fn write(&self, parts: &Parts, put: &mut impl FnMut(usize, u64)) {
        let [head, slots, firsts, rests, listed] = parts.map(|bytes| bytes / 8);
        put(head, self.base);
        put(head + 1, u64::from(self.shift));
        for (word, pair) in self.slots.chunks(2).enumerate() {
            put(slots + word, pack(pair.iter().map(|slot| slot.to_ne_bytes())));
        }
        if rests == 0 {
            for (word, pair) in self.boundaries.chunks(2).enumerate() {
                let low = |(key, _): &(Key, Listed)| u32::try_from(key.first).unwrap_or(u32::MAX);
                put(firsts + word, pack(pair.iter().map(|boundary| low(boundary).to_ne_bytes())));
            }
        } else {
            for (word, (key, _)) in self.boundaries.iter().enumerate() {
                put(firsts + word, key.first);
                put(rests + word, key.rest);
            }
        }
        for (word, eight) in self.boundaries.chunks(8).enumerate() {
            put(listed + word, pack(eight.iter().map(|(_, listed)| [*listed as u8])));
        }
    }
}

/// Puts small numbers into one word, as they stand in memory.
fn pack<const N: usize>(parts: impl Iterator<Item = [u8; N]>) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(parts.flatten()) {
        *to = from;
    }
    u64::from_ne_bytes(bytes)
}

/// Where the list changes, from the first address on.
fn boundaries(ranges: &[Range], step: u128) -> Vec<(Key, Listed)> {
    let mut events = Vec::with_capacity(ranges.len() * 2);
    for &([first, last], listed) in ranges {
        events.push((first, listed, 1));
        // The last address of all has none after it.
        if let Some(end) = last.checked_add(step) {
            events.push((end, listed, -1));
        }
    }
    events.sort_unstable_by_key(|&(at, ..)| at);
    let mut all = vec![(Key { first: 0, rest: 0 }, Listed::No)];
    let (mut allowing, mut denying) = (0_i64, 0_i64);
    for group in events.chunk_by(|one, other| one.0 == other.0) {
        for &(_, listed, change) in group {
            *(if listed == Listed::Allow { &mut allowing } else { &mut denying }) += change;
        }
        let Some(&(at, ..)) = group.first() else { continue };
        let listed = match (allowing, denying) {
            (0, 0) => Listed::No,
            (0, _) => Listed::Deny,
            _ => Listed::Allow,
        };
        let key = key(at);
        match all.last_mut() {
            Some((last, before)) if *last == key => *before = listed,
            Some((_, before)) if *before == listed => {}
            _ => all.push((key, listed)),
        }
    }
    all
}

fn key(address: u128) -> Key {
    let [first, rest] = [address >> 64, address & u128::from(u64::MAX)];
    Key { first: u64::try_from(first).unwrap_or(u64::MAX), rest: u64::try_from(rest).unwrap_or(u64::MAX) }
}

/// Where the index looks closely: at the smallest part of the space that holds nearly all boundaries, so that a few networks far
/// away from the others do not make it coarse. It begins at the first result, and a slot has as many bits as the second says.
fn focus(boundaries: &[(Key, Listed)]) -> (u64, u32) {
    // The first boundary is that of the whole space.
    let firsts: Vec<u64> = boundaries.iter().skip(1).map(|(key, _)| key.first).collect();
    let enough = firsts.len() - firsts.len() / OUTSIDE;
    let dense = |shift: u32| {
        let last = (SLOTS as u64 - 1).checked_shl(shift).filter(|last| last >> shift == SLOTS as u64 - 1);
        let last = last.unwrap_or(u64::MAX);
        let ends = firsts.iter().skip(enough.saturating_sub(1));
        firsts.iter().zip(ends).find(|(begin, end)| **end - **begin <= last).map(|(begin, _)| (*begin, shift))
    };
    (0..u64::BITS).find_map(dense).unwrap_or_default()
}

/// The index: for each slot, the last boundary that is not after its first address. The first slot begins with the space.
fn slots(boundaries: &[(Key, Listed)], base: u64, shift: u32) -> Vec<u32> {
    let mut slots = Vec::with_capacity(SLOTS + 1);
    slots.push(entry(boundaries, 0));
    let mut number = 0;
    for slot in 1..SLOTS as u64 {
        let first = slot.checked_shl(shift).filter(|first| first >> shift == slot);
        let start = first.and_then(|first| base.checked_add(first));
        while let Some((key, _)) = boundaries.get(number + 1) {
            // Past the last address, all boundaries are before.
            if start.is_some_and(|first| *key > Key { first, rest: 0 }) {
                break;
            }
            number += 1;
        }
        slots.push(entry(boundaries, number));
    }
    slots.push(entry(boundaries, boundaries.len() - 1));
    slots
}

/// An entry of the index: a boundary, and the list that follows it.
fn entry(boundaries: &[(Key, Listed)], number: usize) -> u32 {
    let listed = boundaries.get(number).map_or(Listed::No, |(_, listed)| *listed);
    u32::try_from(number).unwrap_or(0) | u32::from(listed as u8) << LISTED
}

impl Listing for FamilyTable {
    fn base(&self) -> u64 {
        self.base
    }

    fn shift(&self) -> u32 {
        self.shift
    }

    fn slot(&self, slot: usize) -> Option<u32> {
        self.slots.get(slot).copied()
    }

    fn first(&self, number: u32) -> Option<u64> {
        Some(self.boundaries.get(usize::try_from(number).ok()?)?.0.first)
    }

    fn rest(&self, number: u32) -> Option<u64> {
        Some(self.boundaries.get(usize::try_from(number).ok()?)?.0.rest)
    }

    fn listed(&self, number: u32) -> Option<Listed> {
        Some(self.boundaries.get(usize::try_from(number).ok()?)?.1)
    }
}
