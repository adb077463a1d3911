//! Ports that packets of our flows go to. Packets to all others are passed without a look into the map of flows.

use std::io;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use proxy_common::abi::packet::{PORT_WORDS, PORTS, port_place};

use crate::kernel::Unavailable;
use crate::kernel::object::{into_io, take};

/// The map, and what is in it: most ports are marked already.
pub(super) struct Ports {
    map: Array<MapData, u64>,
    marked: Vec<u64>,
}

impl Ports {
    /// Those that an earlier daemon has marked are marked.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let map: Array<MapData, u64> = take(ebpf, PORTS)?;
        let marked = (0..PORT_WORDS).map(|word| map.get(&word, 0)).collect::<Result<_, _>>();
        let marked = marked.map_err(|error| Unavailable::explain("a BPF map cannot be read", &error))?;
        Ok(Self { map, marked })
    }

    /// To be done before there are entries of packets to this port. It stays marked: others that use it cost a little time.
    pub(super) fn mark(&mut self, port: u16) -> io::Result<()> {
        let (word, bit) = port_place(port);
        let Some(marked) = self.marked.get_mut(word as usize) else { return Ok(()) };
        if *marked & bit == 0 {
            self.map.set(word, *marked | bit, 0).map_err(into_io)?;
            *marked |= bit;
        }
        Ok(())
    }
}
