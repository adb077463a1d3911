//! The addresses and ports of the listeners, in a hash table that is searched in a few nanoseconds.

use super::packet::{Address, Family};

/// Places of the table.
pub const PLACES: usize = 1 << 13;
/// The most addresses and ports.
pub const MAX_ENDPOINTS: usize = 1 << 10;
/// An endpoint is at one of so many places.
const PROBES: usize = 4;

/// One place: both parts of an address, and the rest. All 0: nobody's.
pub type Place = [u64; 3];

/// Where somebody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    #[inline(always)]
    const fn place(self) -> Place {
        let family = match self.address.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        [self.address.first, self.address.rest, self.port as u64 | family << 16]
    }

    /// The first place that it may be at.
    #[inline(always)]
    const fn home(self, seed: u64) -> usize {
        let [first, rest, kind] = self.place();
        let mixed = (first ^ kind << 41).wrapping_mul(seed).wrapping_add(rest);
        (mixed.wrapping_mul(seed) >> 51) as usize
    }
}

/// Whether `endpoint` is in the table, whose places `read` reads.
#[inline(always)]
pub fn contains(endpoint: Endpoint, seed: u64, read: impl Fn(usize) -> Option<Place>) -> bool {
    let (home, [first, rest, kind]) = (endpoint.home(seed), endpoint.place());
    for probe in 0..PROBES {
        let Some(place) = read((home + probe) & (PLACES - 1)) else { return false };
        // Word by word: a comparison of arrays would become a call, and there calls are what takes the time.
        if place[0] == first && place[1] == rest && place[2] == kind {
            return true;
        }
        if place[2] == 0 {
            return false;
        }
    }
    false
}

/// A table in the making.
#[cfg(feature = "std")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// What the places follow from.
    pub seed: u64,
    places: Vec<Place>,
}

/// More listeners on more addresses than the table has room for.
#[cfg(feature = "std")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the listeners have {0} addresses, and there is room for {MAX_ENDPOINTS}")]
pub struct TooManyEndpoints(usize);

#[cfg(feature = "std")]
impl Endpoints {
    /// How many seeds are tried. With the most endpoints, most of them do.
    const SEEDS: u64 = 10_000;

    /// # Errors
    /// They are too many.
    pub fn build(endpoints: &std::collections::HashSet<Endpoint>) -> Result<Self, TooManyEndpoints> {
        let too_many = TooManyEndpoints(endpoints.len());
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(too_many);
        }
        // Odd multiples of the golden ratio (Knuth, volume 3, section 6.4).
        let seeds = (0..Self::SEEDS).map(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n + 1));
        let mut tables = seeds.filter_map(|seed| Self::with_seed(endpoints, seed));
        tables.next().ok_or(too_many)
    }

    fn with_seed(endpoints: &std::collections::HashSet<Endpoint>, seed: u64) -> Option<Self> {
        let mut places: Vec<Place> = vec![[0; 3]; PLACES];
        for endpoint in endpoints {
            let home = endpoint.home(seed);
            let mut homes = (0..PROBES).map(|probe| (home + probe) & (PLACES - 1));
            let free = homes.find(|&number| places.get(number).is_some_and(|place| place[2] == 0))?;
            *places.get_mut(free)? = endpoint.place();
        }
        Some(Self { seed, places })
    }

    /// Whether somebody listens there.
    #[must_use]
    pub fn contains(&self, endpoint: Endpoint) -> bool {
        contains(endpoint, self.seed, |number| self.places.get(number).copied())
    }

    /// As the program reads it: the seed, and the places one after the other.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.seed).chain(self.places.iter().flatten().copied())
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn all_are_found_and_no_others() {
        for count in [0, 1, 7, 300, 1024_u64] {
            let v4 = |n: u64| {
                let address = Address::v4(0x0a00_0000 + u32::try_from(n).unwrap());
                Endpoint { address, port: 443 }
            };
            let v6 = |n: u64| Endpoint { address: Address::v6(0xfd00 << 48, n), port: 443 };
            let all = (0..count).map(|n: u64| if n.is_multiple_of(2) { v4(n) } else { v6(n) }).collect();
            let table = Endpoints::build(&all).unwrap();
            assert!(all.iter().all(|&endpoint| table.contains(endpoint)), "{count}");
            for endpoint in &all {
                assert!(!table.contains(Endpoint { port: 80, ..*endpoint }));
            }
            for other in
                [v4(count + 1), v6(count + 2), Endpoint { address: Address::v6(0x0a00_0000, 0), port: 443 }]
            {
                assert!(!table.contains(other), "{other:?}");
            }
        }
        let many = (0..1025).map(|n| Endpoint { address: Address::v4(n), port: 1 }).collect();
        assert_eq!(Endpoints::build(&many), Err(TooManyEndpoints(1025)));
    }
}
