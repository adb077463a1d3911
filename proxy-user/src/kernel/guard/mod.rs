//! The guard's program and maps, and where it is attached. When the last descriptor is closed, the kernel takes everything
//! back, unless links were pinned.

mod links;
mod words;

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use proxy_common::abi::guard as abi;
use proxy_common::guard::{Endpoint, Endpoints, Rate, Reason, Source, Table, TooManyEndpoints};
use proxy_common::kernels::Part;

use super::Unavailable;
use super::object::{into_io, lock, missing, take};
use crate::sys;
pub(crate) use links::{Link, Mode};
use words::Words;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_GUARD"));

/// What the program is told when it is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) dry_run: bool,
    /// Bits of an IPv4 and of an IPv6 address that make a source.
    pub(crate) source_bits: [u8; 2],
    pub(crate) source: Rate,
    pub(crate) ceiling: Rate,
    pub(crate) reserve: Rate,
    /// Sources whose rate is watched at a time.
    pub(crate) sources: u32,
}

/// The loaded program.
pub(crate) struct Guard {
    /// Locked while the kernel attaches the program.
    ebpf: Mutex<Ebpf>,
    id: u32,
    words: Words,
    counters: PerCpuArray<MapData, u64>,
    bans: Mutex<HashMap<MapData, u64, u64>>,
    live: Mutex<HashMap<MapData, u64, u64>>,
    sources: MapData,
    masks: [u64; 2],
}

/// Packets by reason.
pub(crate) type Counts = [(Reason, u64); Reason::ALL.len()];

impl Guard {
    pub(crate) fn load(setup: &Setup) -> Result<Self, Unavailable> {
        Self::load_programs(setup).map_err(|error| error.of(Part::Guard))
    }

    fn load_programs(setup: &Setup) -> Result<Self, Unavailable> {
        if let Some(denied) = Unavailable::missing_capabilities() {
            return Err(denied);
        }
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(abi::SOURCES, setup.sources);
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| Unavailable::explain("the BPF maps of the guard cannot be made", &error))?;
        let refused = |error| Unavailable::explain("the kernel refuses the BPF program of the guard", &error);
        let loaded = program(&mut ebpf).map_err(refused)?;
        loaded.load().map_err(refused)?;
        let id = loaded.info().map_err(refused)?.id();
        let Some(Map::LruHashMap(sources)) = ebpf.take_map(abi::SOURCES) else {
            return Err(missing(abi::SOURCES));
        };
        let guard = Self {
            id,
            words: Words::map(&mut ebpf)?,
            counters: take(&mut ebpf, abi::COUNTERS)?,
            bans: Mutex::new(take(&mut ebpf, abi::BANS)?),
            live: Mutex::new(take(&mut ebpf, abi::LIVE)?),
            sources,
            ebpf: Mutex::new(ebpf),
            masks: [mask(32, setup.source_bits[0]), mask(64, setup.source_bits[1])],
        };
        guard.words.set_up(setup, guard.masks);
        Ok(guard)
    }

    /// Id of the program.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// What a source is counted as, from any of its addresses.
    pub(crate) fn source(&self, address: std::net::IpAddr) -> Source {
        Source::of(numbers(address), self.masks[0], self.masks[1])
    }

    /// From now on packets to these are looked at.
    pub(crate) fn set_listeners(&self, endpoints: &HashSet<Endpoint>) -> Result<(), TooManyEndpoints> {
        self.words.set_listeners(&Endpoints::build(endpoints)?, endpoints);
        Ok(())
    }

    /// From now on these lists count, all at once.
    pub(crate) fn set_lists(&self, table: &Table) {
        self.words.set_lists(table);
    }

    /// Sources that are banned from now on, each until a moment of the monotonic clock, in nanoseconds; those that no longer are;
    /// and all that are.
    pub(crate) fn set_bans(
        &self,
        banned: &[(Source, u64)],
        lifted: &[Source],
        all: impl Iterator<Item = Source>,
    ) -> io::Result<()> {
        let mut bans = lock(&self.bans);
        for source in lifted {
            drop(bans.remove(&source.0));
        }
        for (source, until) in banned {
            bans.insert(source.0, until, 0).map_err(into_io)?;
        }
        self.words.set_sketch(all);
        Ok(())
    }

    /// Whether a source has live connections.
    pub(crate) fn set_live(&self, source: Source, is_live: bool) -> io::Result<()> {
        let mut live = lock(&self.live);
        if is_live {
            return live.insert(source.0, 1, 0).map_err(into_io);
        }
        drop(live.remove(&source.0));
        Ok(())
    }

    /// What passed or was dropped, and what would have been dropped if it were no dry run.
    pub(crate) fn counts(&self) -> [Counts; 2] {
        [0, abi::DRY_RUN].map(|first| {
            Reason::ALL.map(|reason| {
                let values = self.counters.get(&(first + reason as u32), 0);
                (reason, values.map_or(0, |values| values.iter().sum()))
            })
        })
    }

    /// How many sources are being watched.
    pub(crate) fn watched(&self) -> io::Result<u64> {
        sys::count_entries(&self.sources.fd().as_fd())
    }
}

/// The object has one program, of this name and type.
fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut(abi::PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// The first `bits` of so many.
fn mask(width: u32, bits: u8) -> u64 {
    let all = u64::MAX >> (64 - width);
    all & !all.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// An address as the program sees it.
pub(crate) fn numbers(address: std::net::IpAddr) -> proxy_common::guard::Address {
    use proxy_common::guard::Address;
    match address {
        std::net::IpAddr::V4(address) => Address::v4(address.into()),
        std::net::IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            Address::v6(
                u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                u64::from_be_bytes([i, j, k, l, m, n, o, p]),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_first_bits() {
        assert_eq!((mask(32, 32), mask(32, 24), mask(32, 8)), (0xffff_ffff, 0xffff_ff00, 0xff00_0000));
        assert_eq!((mask(64, 64), mask(64, 16)), (u64::MAX, 0xffff << 48));
    }
}
