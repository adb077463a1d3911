//! The programs and maps of the packet datapath. They are pinned: flows that have left their sockets go on whatever becomes
//! of the daemon, and the next one finds them.

mod ageing;
mod attach;
mod claim;
mod clsact;
mod folder;
mod handover;
mod hook;
mod kept;
mod order;
mod pins;
mod ports;
mod steer;
mod trial;
mod unpin;
mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use proxy_common::abi::packet::{
    AGEING, CONTROL, COUNTERS, Command, Counter, ENTRY_WORDS, EVENTS, Entry, FLOWS, HANDOVER_WORDS,
    HANDOVERS, KEY_WORDS, Key, LAYOUT, OFFSETS, PORTS, Request, SERVERS, STATE, STATE_HANDOVERS,
    STATE_LAYOUT, WATCH, WITHHELD,
};

use proxy_common::kernels::Part;
use proxy_common::packet::attach::Attach;
use proxy_common::packet::life;

use self::ageing::Ageing;
use self::attach::Devices;
use self::kept::{Kept, Pinned};
use self::ports::Ports;
use super::Unavailable;
use super::object::{into_io, lock, missing, offsets, take};
use crate::sys;

pub(crate) use claim::Claim;
pub(crate) use folder::Folder;
pub(crate) use handover::Armed;
pub(crate) use trial::{trial, try_load};
pub(crate) use watch::{Again, Lost, Taken};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SNISPLICE_BPF_PACKET"));

/// Maps that outlive the daemon.
const PINNED: [&str; 7] = [FLOWS, STATE, PORTS, COUNTERS, AGEING, WATCH, SERVERS];

/// A hand-over behind its lock.
type Locked = [u32; HANDOVER_WORDS + 1];

/// The datapath as a whole, shared by the workers.
pub(crate) struct Packet {
    flows: Mutex<HashMap<MapData, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>>,
    handovers: Mutex<HashMap<MapData, u32, Locked>>,
    withheld: Mutex<HashMap<MapData, u64, u32>>,
    counters: PerCpuArray<MapData, u64>,
    ports: Mutex<Ports>,
    ageing: Mutex<Ageing>,
    /// Entries of connection tracking that were removed by this daemon.
    pub(crate) untracked: AtomicU64,
    /// Segments that this daemon could not send to ends.
    pub(crate) unsent: AtomicU64,
    busy: Mutex<Busy>,
    control: OwnedFd,
    devices: Devices,
    events: Mutex<Option<RingBuf<MapData>>>,
    pins: PathBuf,
    /// Connections may leave their sockets; else those of an earlier daemon are looked after, and no others.
    pub(crate) takes_new: bool,
    kept: Mutex<Kept>,
    /// Locked: nobody else uses the pins.
    only: Mutex<std::fs::File>,
    lost: Mutex<Option<Lost>>,
    /// Interfaces at which the programs were attached again by this daemon, and files that were pinned again.
    pub(crate) reattached: AtomicU64,
    pub(crate) repinned: AtomicU64,
    /// [`Counter::Missed`] when it was last looked at.
    missed: AtomicU64,
}

/// How many hand-overs and connects are under way: packets that go out are looked at only while there are some.
struct Busy {
    state: Array<MapData, u32>,
    count: u32,
    next: u32,
}

/// What the programs have done since they were first loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PacketCounters {
    pub(crate) forwarded: u64,
    pub(crate) forwarded_bytes: u64,
    pub(crate) walked: u64,
    pub(crate) untranslatable: u64,
    pub(crate) expired: u64,
    pub(crate) errors: u64,
    pub(crate) copied: u64,
    pub(crate) refreshed: u64,
    pub(crate) invalid: u64,
    pub(crate) held: u64,
    pub(crate) lost_events: u64,
    pub(crate) no_route: u64,
    pub(crate) moved: u64,
    pub(crate) aged: u64,
    pub(crate) too_big: u64,
    pub(crate) missed: u64,
    pub(crate) untracked: u64,
    pub(crate) unsent: u64,
    pub(crate) reattached: u64,
    pub(crate) repinned: u64,
}

impl Packet {
    /// Loads the programs, with the maps that are pinned in the folder if there are any, and puts them in the place of those
    /// that are attached.
    pub(crate) fn open(claim: Claim, how: Attach) -> Result<Self, Unavailable> {
        Self::load(claim, how).map_err(|error| error.of(Part::Packet))
    }

    fn load(claim: Claim, how: Attach) -> Result<Self, Unavailable> {
        let Claim { path: pins, lock: only, takes_new, .. } = claim;
        unpin::drop_other_layouts(&pins)?;
        let offsets = offsets(OFFSETS.iter())?;
        let mut loader = EbpfLoader::new();
        for (constant, offset) in &offsets {
            loader.override_global(constant, offset, true);
        }
        for map in PINNED {
            loader.map_pin_path(map, pins.join(map));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| Unavailable::explain("the BPF maps cannot be made", &error))?;
        let mut state: Array<MapData, u32> = take(&mut ebpf, STATE)?;
        let written = state.set(STATE_LAYOUT, LAYOUT, 0).and_then(|()| state.set(STATE_HANDOVERS, 0, 0));
        written.map_err(|error| Unavailable::explain("a BPF map cannot be written", &error))?;
        let flows = take(&mut ebpf, FLOWS)?;
        let events = take(&mut ebpf, EVENTS)?;
        let (handovers, withheld) = (take(&mut ebpf, HANDOVERS)?, take(&mut ebpf, WITHHELD)?);
        let counters = take(&mut ebpf, COUNTERS)?;
        let ageing = Mutex::new(Ageing::of(&mut ebpf)?);
        let ports = Mutex::new(Ports::of(&mut ebpf)?);
        let control = load_control(&mut ebpf)?;
        let maps = PINNED.into_iter().map(|map| Pinned::open(pins.join(map))).collect::<io::Result<Vec<_>>>();
        let maps = maps.map_err(|error| Unavailable::explain("what was pinned cannot be opened", &error))?;
        let devices = Devices::take_over(ebpf, &pins, how)?;
        let missed = AtomicU64::new(sum(&counters, Counter::Missed));
        Ok(Self {
            flows: Mutex::new(flows),
            handovers: Mutex::new(handovers),
            withheld: Mutex::new(withheld),
            counters,
            ageing,
            ports,
            untracked: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            busy: Mutex::new(Busy { state, count: 0, next: 0 }),
            control,
            devices,
            events: Mutex::new(Some(events)),
            kept: Mutex::new(Kept::of(maps, &pins)),
            pins,
            takes_new,
            only: Mutex::new(only),
            lost: Mutex::new(None),
            reattached: AtomicU64::new(0),
            missed,
            repinned: AtomicU64::new(0),
        })
    }

    /// The folder where maps and links are pinned.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Keys of flows that have news. None: taken before.
    pub(crate) fn take_events(&self) -> Option<RingBuf<MapData>> {
        lock(&self.events).take()
    }

    /// Nothing of it outlives us: it ends with our descriptors, and with it what flows there still are.
    pub(crate) fn withdraw(&self) -> io::Result<()> {
        self.let_go();
        unpin::remove(&self.pins)
    }

    /// Has the programs at the interface with this index, from now on. May wait for the kernel, which no connection must.
    pub(crate) fn attach(&self, device: u32) -> Result<(), Unavailable> {
        self.known(device).unwrap_or_else(|| self.devices.attach(device, &self.pins))
    }

    /// Whether it has them, or cannot have them now. None: the kernel has to be asked.
    pub(crate) fn known(&self, device: u32) -> Option<Result<(), Unavailable>> {
        self.devices.known(device)
    }

    /// Whether it did not get them since it joins packets.
    pub(crate) fn is_joining(&self, device: u32) -> bool {
        self.devices.table().joining.contains(&device)
    }

    /// The entry of packets with this key.
    pub(crate) fn entry(&self, key: &Key) -> io::Result<Option<Entry>> {
        match lock(&self.flows).get(&key.to_words(), 0) {
            Ok(words) => Ok(Some(Entry::from_words(&words))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(into_io(error)),
        }
    }

    /// All entries. What changes meanwhile may be missing.
    pub(crate) fn entries(&self) -> Vec<(Key, Entry)> {
        let flows = lock(&self.flows);
        let found = flows.iter().filter_map(Result::ok);
        found.map(|(key, words)| (Key::from_words(key), Entry::from_words(&words))).collect()
    }

    /// Bytes of a flow, client to upstream first.
    pub(crate) fn bytes(&self, [client, server]: &[Key; 2]) -> Option<[u64; 2]> {
        let entry = |key| self.entry(key).ok().flatten();
        let (client, server) = (entry(client)?, entry(server)?);
        Some([life::bytes(&client, &server), life::bytes(&server, &client)])
    }

    /// For how long no packet of it has come.
    pub(crate) fn rested(&self, [client, server]: &[Key; 2]) -> Option<Duration> {
        let entry = |key| self.entry(key).ok().flatten();
        Some(life::rested([&entry(client)?, &entry(server)?], sys::now_ms()))
    }

    fn put(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        lock(&self.ports).mark(u16::from_be(key.target_port))?;
        lock(&self.flows).insert(key.to_words(), entry.to_words(), 0).map_err(into_io)
    }

    /// Packets with these keys are the stack's again, which answers them with resets where there is no socket. But for what is
    /// another flow's: a client may have taken its port for that.
    pub(crate) fn forget(&self, [client, server]: &[Key; 2]) {
        let mut flows = lock(&self.flows);
        for (key, other) in [(client, server), (server, client)] {
            let key = key.to_words();
            if flows.get(&key, 0).is_ok_and(|words| Entry::from_words(&words).other() == *other) {
                let _ = flows.remove(&key);
            }
        }
    }

    /// What the programs have counted, on all CPUs.
    pub(crate) fn counters(&self) -> PacketCounters {
        let sum = |counter| sum(&self.counters, counter);
        PacketCounters {
            forwarded: sum(Counter::Forwarded),
            forwarded_bytes: sum(Counter::ForwardedBytes),
            walked: sum(Counter::Walked),
            untranslatable: sum(Counter::Untranslatable),
            expired: sum(Counter::Expired),
            errors: sum(Counter::Errors),
            copied: sum(Counter::Copied),
            refreshed: sum(Counter::Refreshed),
            invalid: sum(Counter::Invalid),
            held: sum(Counter::Held),
            lost_events: sum(Counter::LostEvents),
            no_route: sum(Counter::NoRoute),
            moved: sum(Counter::Moved),
            aged: sum(Counter::Aged),
            too_big: sum(Counter::TooBig),
            missed: sum(Counter::Missed),
            untracked: self.untracked.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            reattached: self.reattached.load(Ordering::Relaxed),
            repinned: self.repinned.load(Ordering::Relaxed),
        }
    }

    /// Lets the SYN of the socket with this cookie not make some offers, until what is returned is dropped.
    pub(crate) fn withhold(&self, cookie: u64, offers: u32) -> io::Result<Withheld<'_>> {
        lock(&self.withheld).insert(cookie, offers, 0).map_err(into_io)?;
        Ok(Withheld { packet: self, cookie, _busy: self.be_busy()? })
    }

    fn run(&self, command: Command, handover: u32) -> io::Result<u32> {
        sys::run_program(&self.control, &Request::bytes(command, handover))
    }

    fn be_busy(&self) -> io::Result<BusyGuard<'_>> {
        let mut busy = lock(&self.busy);
        if busy.count == 0 {
            busy.state.set(STATE_HANDOVERS, 1, 0).map_err(into_io)?;
        }
        busy.count += 1;
        Ok(BusyGuard(self))
    }
}

/// On all CPUs.
fn sum(counters: &PerCpuArray<MapData, u64>, counter: Counter) -> u64 {
    counters.get(&(counter as u32), 0).map_or(0, |values| values.iter().copied().sum())
}

struct BusyGuard<'a>(&'a Packet);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.0.busy);
        busy.count = busy.count.saturating_sub(1);
        if busy.count == 0 {
            let _ = busy.state.set(STATE_HANDOVERS, 0, 0);
        }
    }
}

/// See [`Packet::withhold`].
pub(crate) struct Withheld<'a> {
    packet: &'a Packet,
    cookie: u64,
    _busy: BusyGuard<'a>,
}

impl Drop for Withheld<'_> {
    fn drop(&mut self) {
        let _ = lock(&self.packet.withheld).remove(&self.cookie);
    }
}

fn load_control(ebpf: &mut Ebpf) -> Result<OwnedFd, Unavailable> {
    let refused = |error| Unavailable::explain("the kernel refuses a BPF program", &error);
    let program = attach::program(ebpf, CONTROL)?;
    program.load().map_err(refused)?;
    let fd = SchedClassifier::fd(program).map_err(refused)?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|error| Unavailable::explain("a descriptor cannot be duplicated", &error))
}

fn no_program(name: &str) -> Unavailable {
    missing(name)
}
