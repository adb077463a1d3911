//! The sockmap programs and maps: loaded, attached, and held as long as the value lives. Nothing is pinned: when the
//! daemon ends, in whatever way, the kernel takes everything back.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use aya::programs::SkSkb;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use log::Log;
use proxy_common::abi::sockmap::{
    COUNTERS, Counter, DIRECTIONS, Direction, DirectionWords, EVENTS, PROGRAM, SND_UNA_OFFSET, SOCKETS,
    TAKEN, WRITE_SEQ_OFFSET,
};

use proxy_common::btf::field_offset;

use super::Unavailable;
use super::failure::os_error;
use crate::sys;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_SOCKMAP"));

/// The datapath as a whole. Dropping it detaches the program.
pub(crate) struct Sockmap {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    /// What the self-test did, so that it is not taken for traffic.
    zero: KernelCounters,
    handle: Handle,
    /// Id of the program.
    program: u32,
}

/// What a worker needs to splice flows. Each worker has its own, so that workers do not wait for each other.
pub(crate) struct Handle {
    sockets: Mutex<SockHash<MapData, u64>>,
    directions: Mutex<HashMap<MapData, u64, DirectionWords>>,
    taken: Mutex<HashMap<MapData, u64, u64>>,
}

/// What the programs have done since they were loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct KernelCounters {
    pub(crate) redirected_bytes: u64,
    pub(crate) redirected_segments: u64,
    pub(crate) passed_bytes: u64,
    pub(crate) redirect_failures: u64,
    pub(crate) unknown_sockets: u64,
    pub(crate) credit_stops: u64,
    pub(crate) lost_events: u64,
}

impl Sockmap {
    /// Loads and attaches. `debug` lets the programs log, which costs a little for each rare event that they tell.
    pub(crate) fn load(debug: bool) -> Result<Self, Unavailable> {
        let level = if debug { aya_log::Level::Trace as u8 } else { 0 };
        let (snd_una, write_seq) = offsets()?;
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, false)
            .override_global(SND_UNA_OFFSET, &snd_una, true)
            .override_global(WRITE_SEQ_OFFSET, &write_seq, true)
            .load(OBJECT)
            .map_err(|error| Unavailable::explain("the BPF maps cannot be made", &error))?;
        let sockets: SockHash<MapData, u64> = take(&mut ebpf, SOCKETS)?;
        let program = attach(&mut ebpf, &sockets)?;
        let directions = take(&mut ebpf, DIRECTIONS)?;
        let counters = take(&mut ebpf, COUNTERS)?;
        let taken = take(&mut ebpf, TAKEN)?;
        let handle = Handle {
            sockets: Mutex::new(sockets),
            directions: Mutex::new(directions),
            taken: Mutex::new(taken),
        };
        Ok(Self { ebpf, counters, zero: KernelCounters::default(), handle, program })
    }

    /// Cookies of sockets whose bytes userspace must carry from now on. None: taken before.
    pub(crate) fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.ebpf.take_map(EVENTS)?.try_into().ok()
    }

    /// What the programs log. None: taken before.
    pub(crate) fn take_log(&mut self) -> Option<EbpfLogger<&'static dyn Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// Whether the program is still where it was attached. Sockets that are inserted without it would carry nothing. A
    /// kernel that does not tell is taken at its word.
    pub(crate) fn is_attached(&self) -> bool {
        let attached = sys::attached_verdict(&lock(&self.handle.sockets).fd().as_fd());
        attached.map_or(true, |id| id == Some(self.program))
    }

    /// A further handle on the same maps.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        self.handle.duplicate()
    }

    /// The first handle.
    pub(super) fn handle_ref(&self) -> &Handle {
        &self.handle
    }

    /// What the verdict has counted for a spliced socket.
    pub(crate) fn direction(&self, cookie: u64) -> io::Result<Direction> {
        self.handle.direction(cookie)
    }

    /// Counts from zero from now on.
    pub(super) fn reset_counters(&mut self) {
        self.zero = KernelCounters::default();
        self.zero = self.counters();
    }

    /// Bytes of a spliced socket that were handed to its target, by the kernel or by userspace.
    pub(crate) fn carried(&self, cookie: u64) -> io::Result<u64> {
        let taken = lock(&self.handle.taken).get(&cookie, 0).unwrap_or(0);
        Ok(self.handle.direction(cookie)?.redirected.saturating_add(taken))
    }

    /// The sum over all CPUs.
    pub(crate) fn counters(&self) -> KernelCounters {
        let sum = |counter: Counter, zero: u64| {
            let values = self.counters.get(&(counter as u32), 0);
            values.map_or(0, |values| values.iter().copied().sum::<u64>().saturating_sub(zero))
        };
        KernelCounters {
            redirected_bytes: sum(Counter::RedirectedBytes, self.zero.redirected_bytes),
            redirected_segments: sum(Counter::RedirectedSegments, self.zero.redirected_segments),
            passed_bytes: sum(Counter::PassedBytes, self.zero.passed_bytes),
            redirect_failures: sum(Counter::RedirectFailures, self.zero.redirect_failures),
            unknown_sockets: sum(Counter::UnknownSockets, self.zero.unknown_sockets),
            credit_stops: sum(Counter::CreditStops, self.zero.credit_stops),
            lost_events: sum(Counter::LostEvents, self.zero.lost_events),
        }
    }
}

impl Handle {
    fn duplicate(&self) -> io::Result<Self> {
        let sockets = duplicate(lock(&self.sockets).fd().as_fd())?;
        let directions = duplicate(IterableMap::map(&*lock(&self.directions)).fd().as_fd())?;
        let taken = duplicate(IterableMap::map(&*lock(&self.taken)).fd().as_fd())?;
        Ok(Self {
            sockets: Mutex::new(Map::SockHash(sockets).try_into().map_err(io::Error::other)?),
            directions: Mutex::new(Map::HashMap(directions).try_into().map_err(io::Error::other)?),
            taken: Mutex::new(Map::HashMap(taken).try_into().map_err(io::Error::other)?),
        })
    }

    /// Says where bytes received by the socket `cookie` go, before the socket is inserted.
    pub(crate) fn set_direction(&self, cookie: u64, direction: Direction) -> io::Result<()> {
        lock(&self.directions).insert(cookie, direction.to_words(), 0).map_err(into_io)
    }

    /// See [`Sockmap::direction`].
    pub(crate) fn direction(&self, cookie: u64) -> io::Result<Direction> {
        lock(&self.directions).get(&cookie, 0).map(Direction::from_words).map_err(into_io)
    }

    /// Tells the verdict how many of the bytes that it passed userspace has carried on, in all.
    pub(crate) fn set_taken(&self, cookie: u64, bytes: u64) -> io::Result<()> {
        lock(&self.taken).insert(cookie, bytes, 0).map_err(into_io)
    }

    /// Forgets a direction. To be called after its socket is closed: only then can the verdict no longer hold the
    /// entry, which the kernel gives to the next flow at once.
    pub(crate) fn forget(&self, cookie: u64) {
        let _ = lock(&self.directions).remove(&cookie);
        let _ = lock(&self.taken).remove(&cookie);
    }

    /// Puts the socket under the verdict. The kernel takes it out when it is closed. `EOPNOTSUPP`: the socket is no
    /// longer established; `E2BIG`: the map is full.
    pub(crate) fn insert(&self, cookie: u64, socket: &impl AsFd) -> io::Result<()> {
        lock(&self.sockets).insert(cookie, socket.as_fd().as_raw_fd(), 0).map_err(into_io)
    }
}

/// Where the verdict finds what a target's peer has acknowledged: the kernel describes its own structures.
fn offsets() -> Result<(u32, u32), Unavailable> {
    const SOURCE: &str = "/sys/kernel/btf/vmlinux";
    let btf = std::fs::read(SOURCE)
        .map_err(|error| Unavailable::explain(&format!("cannot read {SOURCE}"), &error))?;
    let offset = |field| {
        field_offset(&btf, "tcp_sock", field).ok_or_else(|| Unavailable {
            what: format!("{SOURCE} does not say where tcp_sock.{field} is"),
            remedy: "use a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        })
    };
    Ok((offset("snd_una")?, offset("write_seq")?))
}

fn attach(ebpf: &mut Ebpf, sockets: &SockHash<MapData, u64>) -> Result<u32, Unavailable> {
    let program: &mut SkSkb = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| missing(PROGRAM))?
        .try_into()
        .map_err(|error| Unavailable::explain("the BPF program has another type", &error))?;
    program.load().map_err(|error| Unavailable::explain("the kernel refuses the BPF program", &error))?;
    program
        .attach(sockets.fd())
        .map_err(|error| Unavailable::explain("the BPF program cannot be attached", &error))?;
    let info = program.info().map_err(|error| Unavailable::explain("the BPF program has no id", &error))?;
    Ok(info.id())
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, Unavailable> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    map.try_into().map_err(|error| Unavailable::explain("a BPF map has another type", &error))
}

fn missing(name: &str) -> Unavailable {
    Unavailable {
        what: format!("the BPF object has no {name}"),
        remedy: "build again with `cargo xtask build`".to_owned(),
    }
}

fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<MapData> {
    MapData::from_fd(fd.try_clone_to_owned()?).map_err(into_io)
}

fn into_io(error: MapError) -> io::Error {
    match os_error(&error).and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
    }
}

/// A panic while the lock was held cannot have left a map half changed: each change is one system call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
