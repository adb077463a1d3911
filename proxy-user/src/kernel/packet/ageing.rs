//! What the kernel has to know to look after the flows when no daemon does.

use std::collections::HashMap;
use std::io;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use proxy_common::abi::packet::{
    Answer, Command, Key, MAX_SERVERS, SERVER_WORDS, SERVERS, Server, WATCH, watch,
};
use proxy_common::packet::ageing::Limits;

use super::{Packet, into_io, lock, take};
use crate::kernel::Unavailable;
use crate::sys;

/// A server of which the ports do not matter.
type Known = HashMap<Server, (u32, Server)>;

pub(super) struct Ageing {
    watch: Array<MapData, u32>,
    servers: Array<MapData, [u32; SERVER_WORDS]>,
    known: Known,
    is_full: bool,
}

impl Ageing {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let (watch, servers) = (take(ebpf, WATCH)?, take(ebpf, SERVERS)?);
        Ok(Self { watch, servers, known: Known::new(), is_full: false })
    }

    fn set(&mut self, index: u32, value: u32) -> io::Result<()> {
        self.watch.set(index, value, 0).map_err(into_io)
    }

    fn cover(&mut self, key: &Key) -> io::Result<()> {
        let new = Server::of(key);
        let name = Server { first: 0, last: 0, ..new };
        let count = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let (slot, server) = match self.known.get(&name) {
            Some((slot, server)) => {
                let wider = server.and(&new);
                if wider == *server {
                    return Ok(());
                }
                (*slot, wider)
            }
            None if self.known.len() < MAX_SERVERS => (count, new),
            None => {
                if !std::mem::replace(&mut self.is_full, true) {
                    tracing::warn!(
                        "more than {MAX_SERVERS} servers: flows to others are not forgotten while no daemon runs"
                    );
                }
                return Ok(());
            }
        };
        self.servers.set(slot, server.to_words(), 0).map_err(into_io)?;
        self.known.insert(name, (slot, server));
        // After what it counts.
        self.set(watch::SERVERS, u32::try_from(self.known.len()).unwrap_or(0))
    }
}

impl Packet {
    /// Says that a daemon looks after the flows, for the next seconds.
    pub(crate) fn beat(&self) -> io::Result<()> {
        lock(&self.ageing).set(watch::BEAT, sys::now_ms())
    }

    /// From now on the kernel looks after the flows whenever no daemon does. It knows those only that are covered after this.
    pub(crate) fn tend(&self, limits: &Limits) -> io::Result<()> {
        self.beat()?;
        let mut ageing = lock(&self.ageing);
        let words = [
            (watch::SERVERS, 0),
            (watch::SERVER, 0),
            (watch::PORT, 0),
            (watch::IDLE, limits.idle),
            (watch::HALF_CLOSE, limits.half_close),
            (watch::LINGER, limits.linger),
        ];
        words.into_iter().try_for_each(|(index, value)| ageing.set(index, value))?;
        drop(ageing);
        match Answer::from_code(self.run(Command::Tend, 0)?) {
            Answer::Done => Ok(()),
            _ => Err(io::Error::other("the kernel refuses the timer")),
        }
    }

    /// Has the kernel look after the flow whose server's packets have this key.
    pub(crate) fn cover(&self, key: &Key) -> io::Result<()> {
        lock(&self.ageing).cover(key)
    }
}
