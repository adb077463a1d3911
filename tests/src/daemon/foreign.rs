//! What another program with root's rights can do to a daemon: take hold of its BPF objects and of its sockets.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Daemon;
use crate::netns::{BpfMap, BpfVerdict, duplicate_of};

/// `BPF_MAP_TYPE_HASH`
const HASH: u32 = 1;
/// `BPF_MAP_TYPE_SOCKMAP` and `BPF_MAP_TYPE_SOCKHASH`
const SOCKET_MAPS: [u32; 2] = [15, 18];
/// The name of the map of spliced sockets, in all programs that have one.
const SPLICED: &str = "SOCKETS";
/// `BPF_PROG_TYPE_SK_SKB`
const SK_SKB: u32 = 14;
/// `BPF_PROG_TYPE_SK_MSG`
const SK_MSG: u32 = 16;

impl Daemon {
    /// The map that holds the daemon's spliced sockets.
    ///
    /// # Errors
    /// When it has none.
    pub fn socket_map(&self) -> Result<BpfMap> {
        for info in self.descriptor_infos()? {
            let is_one = SOCKET_MAPS.iter().any(|kind| info.is("map_type", *kind));
            let Some((id, key_size)) = info.number("map_id").zip(info.number("key_size")).filter(|_| is_one)
            else {
                continue;
            };
            let map = BpfMap::open(id, usize::try_from(key_size)?)?;
            // There is another one, of the sockets of servers on this host.
            if map.name()? == SPLICED {
                return Ok(map);
            }
        }
        bail!("the daemon has no map of spliced sockets")
    }

    /// The daemon's hash map for so many elements of so many bytes.
    ///
    /// # Errors
    /// When it has none.
    pub fn hash_map(&self, elements: usize, bytes: usize) -> Result<BpfMap> {
        let shape = [
            ("map_type", HASH),
            ("max_entries", u32::try_from(elements)?),
            ("value_size", u32::try_from(bytes)?),
        ];
        let infos = self.descriptor_infos()?;
        let map = infos.iter().find(|info| shape.iter().all(|(key, value)| info.is(key, *value)));
        let map = map.with_context(|| format!("the daemon has no map of {elements} elements"))?;
        let (id, key_size) = map.number("map_id").zip(map.number("key_size")).context("no id, no size")?;
        Ok(BpfMap::open(id, usize::try_from(key_size)?)?)
    }

    /// The program that the daemon has attached to its map of sockets.
    ///
    /// # Errors
    /// When it has none.
    pub fn verdict(&self) -> Result<BpfVerdict> {
        let infos = self.descriptor_infos()?;
        let program = infos.iter().find(|info| info.is("prog_type", SK_SKB));
        let id = program.and_then(|info| info.number("prog_id")).context("the daemon has no verdict")?;
        Ok(BpfVerdict::open(id)?)
    }

    /// Detaches the program that decides about what servers on the daemon's host send from its map.
    ///
    /// # Errors
    /// When there is none.
    pub fn detach_bypass(&self) -> Result<()> {
        let infos = self.descriptor_infos()?;
        let program = infos.iter().find(|info| info.is("prog_type", SK_MSG));
        let id = program.and_then(|info| info.number("prog_id")).context("the daemon has no bypass")?;
        let program = BpfVerdict::open(id)?;
        let maps = infos.iter().filter(|info| SOCKET_MAPS.iter().any(|kind| info.is("map_type", *kind)));
        for id in maps.filter_map(|info| info.number("map_id")) {
            if BpfMap::open(id, 8)?.detach_sent(&program).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("it is attached to none of the daemon's maps")
    }

    /// A duplicate of the daemon's socket that is connected to `peer`.
    ///
    /// # Errors
    /// When it has none.
    pub fn socket_to(&self, peer: SocketAddr) -> Result<TcpStream> {
        let folder = Path::new("/proc").join(self.pid().to_string()).join("fd");
        for entry in folder.read_dir()? {
            let entry = entry?;
            // A descriptor may be closed between listing and reading.
            let target = entry.path().read_link().unwrap_or_default();
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if target.to_string_lossy().starts_with("socket:")
                && let Ok(descriptor) = duplicate_of(self.pid(), number)
            {
                let stream = TcpStream::from(descriptor);
                // Not every socket is one of TCP: those have other addresses, or none.
                if stream.peer_addr().is_ok_and(|address| same(address, peer)) {
                    return Ok(stream);
                }
            }
        }
        anyhow::bail!("the daemon has no socket that is connected to {peer}")
    }

    fn descriptor_infos(&self) -> Result<Vec<Info>> {
        let folder = Path::new("/proc").join(self.pid().to_string()).join("fdinfo");
        let entries = folder.read_dir()?.collect::<Result<Vec<_>, _>>()?;
        // A descriptor may be closed between listing and reading.
        Ok(entries.iter().map(|e| Info(std::fs::read_to_string(e.path()).unwrap_or_default())).collect())
    }
}

/// An IPv4 peer of a dual-stack socket is shown as an IPv6 one.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

/// What the kernel says of a descriptor.
struct Info(String);

impl Info {
    fn number(&self, key: &str) -> Option<u32> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        value.trim().parse().ok()
    }

    fn is(&self, key: &str, value: u32) -> bool {
        self.number(key) == Some(value)
    }
}
