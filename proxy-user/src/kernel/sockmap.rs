//! The sockmap programs and maps: loaded, attached, and held as long as the value lives. Nothing is pinned: when the
//! daemon ends, in whatever way, the kernel takes everything back.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aya::maps::{Array, HashMap, IterableMap, Map, MapData, PerCpuArray, RingBuf, SockHash};
use aya::programs::SkSkb;
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use log::Log;
use proxy_common::abi::local as abi;
use proxy_common::abi::sockmap::{
    COUNTERS, Counter, DIRECTION_WORDS, DIRECTIONS, Direction, EVENTS, MAX_SOCKETS, OFFSETS, PROGRAM, Place,
    SLOTS, SOCKETS, Word,
};

use super::Unavailable;
use super::local::{self, BackendLookup};
use super::object::{into_io, lock, offsets, program, take};
use super::slots::{Slot, Slots};
use crate::sys;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_SOCKMAP"));

/// The datapath as a whole. Dropping it detaches the program.
pub(crate) struct Sockmap {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    /// What the self-test did, so that it is not taken for traffic.
    zero: KernelCounters,
    handle: Handle,
    reattached: AtomicU64,
}

/// How it stands with programs that somebody else may take away.
#[derive(Debug)]
pub(crate) enum Attachment {
    Whole,
    /// They were gone, and are not any more.
    Again,
    /// They are gone.
    Lost(io::Error),
}

/// What a worker needs to splice flows. Each worker has its own, so that workers do not wait for each other.
pub(crate) struct Handle {
    sockets: Mutex<SockHash<MapData, u64>>,
    index: Mutex<HashMap<MapData, u64, u32>>,
    slots: Arc<Slots>,
    lookup: Option<BackendLookup>,
    /// Id of the program.
    program: u32,
}

/// One direction of a flow that the verdict knows. To be dropped after its socket is closed: only then has the verdict
/// let go of the slot, which the next flow gets.
pub(crate) struct Track<'a> {
    handle: &'a Handle,
    cookie: u64,
    slot: Slot,
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
    pub(crate) overdrawn_bytes: u64,
    pub(crate) repeated_bytes: u64,
    pub(crate) misfit_segments: u64,
    pub(crate) bypassed_bytes: u64,
}

impl Sockmap {
    /// Loads and attaches. `debug` lets the programs log, which costs a little for each rare event that they tell. `local`: also
    /// what servers on this host need.
    pub(super) fn load(debug: bool, local: bool) -> Result<Self, Unavailable> {
        let level = if debug { aya_log::Level::Trace as u8 } else { 0 };
        let object = if local { local::OBJECT } else { OBJECT };
        let further = if local { abi::OFFSETS.as_slice() } else { &[] };
        let (offsets, capacity) = (offsets(OFFSETS.iter().chain(further))?, capacity());
        let btf = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader.btf(btf.as_ref());
        loader.override_global(aya_log::LEVEL, &level, false);
        for (constant, offset) in &offsets {
            loader.override_global(constant, offset, true);
        }
        for map in [SOCKETS, SLOTS, DIRECTIONS, abi::BACKENDS, abi::BYPASSES, abi::CAPTURED] {
            loader.map_max_entries(map, capacity);
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|error| Unavailable::explain("the BPF maps cannot be made", &error))?;
        let sockets: SockHash<MapData, u64> = take(&mut ebpf, SOCKETS)?;
        let program = attach(&mut ebpf, &sockets)?;
        let directions: Array<MapData, [u64; DIRECTION_WORDS]> = take(&mut ebpf, DIRECTIONS)?;
        let handle = Handle {
            sockets: Mutex::new(sockets),
            index: Mutex::new(take(&mut ebpf, SLOTS)?),
            slots: map_slots(&directions, capacity)?,
            lookup: local.then(|| BackendLookup::load(&mut ebpf, btf.as_ref())).transpose()?,
            program,
        };
        let counters = take(&mut ebpf, COUNTERS)?;
        Ok(Self { ebpf, counters, zero: KernelCounters::default(), handle, reattached: AtomicU64::new(0) })
    }

    /// Cookies of sockets whose bytes userspace must carry from now on. None: taken before.
    pub(crate) fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.ebpf.take_map(EVENTS)?.try_into().ok()
    }

    /// What the programs log. None: taken before.
    pub(crate) fn take_log(&mut self) -> Option<EbpfLogger<&'static dyn Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// Looks whether the programs are still where they were attached, and attaches them again where they are not.
    pub(crate) fn stay_attached(&self) -> Attachment {
        let again =
            if self.handle.is_attached() {
                None
            } else {
                let program = self.ebpf.program(PROGRAM).and_then(|program| program.fd().ok());
                let program = program.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
                let sockets = lock(&self.handle.sockets);
                Some(program.and_then(|program| {
                    sys::attach_to_map(&sockets.fd().as_fd(), &program.as_fd(), sys::STREAM)
                }))
            };
        let bypass = self.handle.lookup.as_ref().and_then(BackendLookup::stay_attached);
        match again.into_iter().chain(bypass).reduce(io::Result::and) {
            None => Attachment::Whole,
            Some(Ok(())) => {
                self.reattached.fetch_add(1, Ordering::Relaxed);
                Attachment::Again
            }
            Some(Err(error)) => Attachment::Lost(error),
        }
    }

    /// How often the programs were attached again.
    pub(crate) fn reattached(&self) -> u64 {
        self.reattached.load(Ordering::Relaxed)
    }

    /// A further handle on the same maps.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        self.handle.duplicate()
    }

    /// The first handle.
    pub(super) fn handle_ref(&self) -> &Handle {
        &self.handle
    }

    /// What the verdict has counted for the spliced socket at `place`. None: it is gone.
    pub(crate) fn direction(&self, place: Place) -> Option<Direction> {
        self.handle.slots.read(place)
    }

    /// The most credit that a direction may have, in bytes.
    pub(crate) fn ceiling(&self) -> u64 {
        self.handle.slots.ceiling()
    }

    /// Changes it for all flows.
    pub(crate) fn set_ceiling(&self, bytes: u64) {
        self.handle.slots.set_ceiling(bytes);
    }

    /// Counts from zero from now on.
    pub(super) fn reset_counters(&mut self) {
        self.zero = KernelCounters::default();
        self.zero = self.counters();
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
            repeated_bytes: sum(Counter::RepeatedBytes, self.zero.repeated_bytes),
            misfit_segments: sum(Counter::MisfitSegments, self.zero.misfit_segments),
            overdrawn_bytes: sum(Counter::OverdrawnBytes, self.zero.overdrawn_bytes),
            bypassed_bytes: self.handle.slots.beside().saturating_sub(self.zero.bypassed_bytes),
        }
    }
}

impl Handle {
    fn duplicate(&self) -> io::Result<Self> {
        let sockets = duplicate(lock(&self.sockets).fd().as_fd())?;
        let index = duplicate(IterableMap::map(&*lock(&self.index)).fd().as_fd())?;
        Ok(Self {
            sockets: Mutex::new(Map::SockHash(sockets).try_into().map_err(io::Error::other)?),
            index: Mutex::new(Map::HashMap(index).try_into().map_err(io::Error::other)?),
            slots: Arc::clone(&self.slots),
            lookup: self.lookup.clone(),
            program: self.program,
        })
    }

    /// Whether the program is still where it was attached. Sockets that are inserted without it would carry nothing. A
    /// kernel that does not tell is taken at its word.
    pub(crate) fn is_attached(&self) -> bool {
        let attached = sys::attached_to_map(&lock(&self.sockets).fd().as_fd(), sys::STREAM);
        attached.map_or(true, |id| id == Some(self.program))
    }

    /// Captures servers of this host. None: not loaded.
    pub(crate) fn lookup(&self) -> Option<&BackendLookup> {
        self.lookup.as_ref()
    }

    /// Lets the verdict know where bytes of two sockets go, before the sockets are inserted. `E2BIG`: there is no room for
    /// more.
    pub(crate) fn track(&self, directions: [Direction; 2]) -> io::Result<[Track<'_>; 2]> {
        let track = |direction: Direction| {
            let slot = self.slots.claim(direction)?;
            Ok::<_, io::Error>(Track { handle: self, cookie: direction.source, slot })
        };
        let [one, other] = directions;
        let tracks = [track(one)?, track(other)?];
        let [one, other] = &tracks;
        one.slot.set(Word::Back, other.slot.number().into());
        other.slot.set(Word::Back, one.slot.number().into());
        for track in &tracks {
            lock(&self.index).insert(track.cookie, track.slot.number(), 0).map_err(into_io)?;
        }
        Ok(tracks)
    }

    /// Puts the socket under the verdict. The kernel takes it out when it is closed. `EOPNOTSUPP`: the socket is no
    /// longer established; `E2BIG`: the map is full.
    pub(crate) fn insert(&self, cookie: u64, socket: &impl AsFd) -> io::Result<()> {
        lock(&self.sockets).insert(cookie, socket.as_fd().as_raw_fd(), 0).map_err(into_io)
    }
}

impl Track<'_> {
    pub(crate) fn place(&self) -> Place {
        Place { slot: self.slot.number(), cookie: self.cookie }
    }

    /// What the verdict has counted so far.
    pub(crate) fn read(&self) -> Direction {
        self.slot.read()
    }

    /// Tells the verdict how many of the bytes that it passed userspace has carried on, in all.
    pub(crate) fn set_taken(&self, bytes: u64) {
        self.slot.set(Word::Taken, bytes);
    }

    /// Leaves all bytes to userspace from now on, or no longer.
    pub(crate) fn hold(&self, held: bool) {
        self.slot.set(Word::Hold, u64::from(held));
    }

    /// Asks for an event when so many bytes were seen.
    pub(crate) fn call_at(&self, bytes: u64) {
        self.slot.set(Word::CallAt, bytes);
    }
}

impl Drop for Track<'_> {
    fn drop(&mut self) {
        let _ = lock(&self.handle.index).remove(&self.cookie);
    }
}

/// ConnectionLimit for every socket that this process may open, so that capacity follows the one limit that operators know.
fn capacity() -> u32 {
    let limit = sys::open_file_limit().0.and_then(|files| u32::try_from(files).ok());
    limit.unwrap_or(MAX_SOCKETS).clamp(2, MAX_SOCKETS)
}

fn map_slots(
    directions: &Array<MapData, [u64; DIRECTION_WORDS]>,
    count: u32,
) -> Result<Arc<Slots>, Unavailable> {
    let words = usize::try_from(count).unwrap_or(0) * DIRECTION_WORDS;
    let memory = sys::SharedWords::map(&IterableMap::map(directions).fd(), words)
        .map_err(|error| Unavailable::explain("the BPF maps cannot be mapped", &error))?;
    Ok(Slots::new(memory, count))
}

fn attach(ebpf: &mut Ebpf, sockets: &SockHash<MapData, u64>) -> Result<u32, Unavailable> {
    let program: &mut SkSkb = program(ebpf, PROGRAM)?;
    program.load().map_err(|error| Unavailable::explain("the kernel refuses the BPF program", &error))?;
    program
        .attach(sockets.fd())
        .map_err(|error| Unavailable::explain("the BPF program cannot be attached", &error))?;
    let info = program.info().map_err(|error| Unavailable::explain("the BPF program has no id", &error))?;
    Ok(info.id())
}

fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<MapData> {
    MapData::from_fd(fd.try_clone_to_owned()?).map_err(into_io)
}
