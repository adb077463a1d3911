//! The guard of an interface: drops what must not come in, before the kernel spends anything on it. What decides is
//! `proxy_common::guard`; here are its packets and its maps.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_get_buff_len};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use proxy_common::abi::guard::{
    COUNTER_COUNT, DEFAULT_SOURCES, DRY_RUN, Listeners, Lists, ListsV4, ListsV6, MAX_BANS, MAX_LIVE, Settings,
};
use proxy_common::guard::{
    Address, Bucket, Bytes, Endpoint, Family, Key, Listed, Listing, MAX_BOUNDARIES, Rate, Source, World,
    contains, decide, search,
};

/// `BPF_F_MMAPABLE` (`include/uapi/linux/bpf.h`): the daemon has it mapped.
const MAPPED: u32 = 1 << 10;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, MAPPED);

#[map]
static LISTS: Array<Lists> = Array::with_max_entries(2, MAPPED);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

#[map]
static LISTENERS: Array<Listeners> = Array::with_max_entries(2, MAPPED);

#[map]
static BANS: HashMap<u64, u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);

#[map]
static LIVE: HashMap<u64, u64> = HashMap::with_max_entries(MAX_LIVE, BPF_F_NO_PREALLOC);

#[map]
static SOURCES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(DEFAULT_SOURCES, 0);

#[map]
static CEILINGS: Array<[u64; 8]> = Array::with_max_entries(2, 0);

/// The last tick that this CPU has seen, and the time then.
#[map]
static CLOCK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

#[xdp(frags)]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn guard(ctx: XdpContext) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return XDP_PASS };
    let reason = decide(&Packet(&ctx), &Kernel(settings));
    let is_dry = settings.dry_run != 0 && reason.drops();
    let counter = reason as u32 + if is_dry { DRY_RUN } else { 0 };
    if let Some(counter) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: an element of this CPU, which no other program writes to.
        unsafe { *counter += 1 };
    }
    if reason.drops() && !is_dry { XDP_DROP } else { XDP_PASS }
}

/// The first piece of a packet.
struct Packet<'a>(&'a XdpContext);

impl Packet<'_> {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let start = self.0.data() + at;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: all of it is in the packet, by the comparison above, and T is made of numbers. The load is one of the BPF machine, for
        // which addresses in packets need no alignment; byte by byte it would take several times as long.
        Some(unsafe { *(start as *const T) })
    }
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn two(&self, at: usize) -> Option<u16> {
        self.read(at).map(u16::from_be)
    }

    #[inline(always)]
    fn four(&self, at: usize) -> Option<u32> {
        self.read(at).map(u32::from_be)
    }

    #[inline(always)]
    fn eight(&self, at: usize) -> Option<u64> {
        self.read(at).map(u64::from_be)
    }

    #[inline(always)]
    fn eights<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        self.read::<[u64; N]>(at).map(|eights| eights.map(u64::from_be))
    }

    #[inline(always)]
    fn is_whole(&self) -> bool {
        // SAFETY: the context is the one the kernel called this program with.
        let length = unsafe { bpf_xdp_get_buff_len(self.0.ctx) };
        length == (self.0.data_end() - self.0.data()) as u64
    }
}

/// The maps.
struct Kernel<'a>(&'a Settings);

impl World for Kernel<'_> {
    #[inline(always)]
    fn is_port(&self, port: u16) -> bool {
        let word = self.0.ports.get(usize::from(port >> 6)).copied().unwrap_or_default();
        word >> (port & 63) & 1 != 0
    }

    #[inline(always)]
    fn is_listener(&self, endpoint: Endpoint) -> bool {
        let Some(listeners) = LISTENERS.get(u32::from(self.0.listeners != 0)) else { return false };
        contains(endpoint, listeners.seed, |number| listeners.places.get(number).copied())
    }

    #[inline(always)]
    fn listed(&self, source: Address) -> Listed {
        let generation = self.0.generation & 1;
        let number = match source.family {
            Family::V4 => listed_v4(generation, source.first),
            Family::V6 => listed_v6(generation, source.first, source.rest),
        };
        Listed::from_number(number)
    }

    #[inline(always)]
    fn source(&self, source: Address) -> Source {
        Source::of(source, self.0.mask_v4, self.0.mask_v6)
    }

    #[inline(always)]
    fn may_be_banned(&self, source: Source) -> bool {
        let bit = source.bit();
        self.0.sketch.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    #[inline(always)]
    fn banned_until(&self, source: Source) -> u64 {
        read(BANS.get_ptr(source.0)).unwrap_or_default()
    }

    /// As fine as the kernel's tick, as the clock itself is. The tick is read without a call, and calls are what takes the time here.
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: needs nothing.
        let tick = unsafe { bpf_jiffies64() };
        let Some(clock) = CLOCK.get_ptr_mut(0) else { return 0 };
        // SAFETY: an element of this CPU, which no other program writes to.
        let clock = unsafe { &mut *clock };
        if clock[0] != tick {
            // SAFETY: needs nothing.
            *clock = [tick, unsafe { bpf_ktime_get_coarse_ns() }];
        }
        clock[1]
    }

    #[inline(always)]
    fn is_live(&self, source: Source) -> bool {
        LIVE.get_ptr(source.0).is_some()
    }

    #[inline(always)]
    fn source_rate(&self) -> Rate {
        rate(self.0.source)
    }

    #[inline(always)]
    fn bucket(&self, source: Source) -> Option<Bucket> {
        read(SOURCES.get_ptr(source.0)).map(Bucket)
    }

    #[inline(always)]
    fn put_bucket(&self, source: Source, is_new: bool, after: Bucket) {
        if is_new {
            // It fails where another processor was first, and where all memory is taken: then there is no limit.
            let _ = SOURCES.insert(source.0, after.0, u64::from(BPF_NOEXIST));
        } else {
            put(SOURCES.get_ptr_mut(source.0), after);
        }
    }

    #[inline(always)]
    fn ceiling_rate(&self, reserve: bool) -> Rate {
        rate(if reserve { self.0.reserve } else { self.0.ceiling })
    }

    #[inline(always)]
    fn ceiling(&self, reserve: bool) -> Bucket {
        Bucket(read(CEILINGS.get_ptr(u32::from(reserve)).map(<*const [u64; 8]>::cast)).unwrap_or_default())
    }

    #[inline(always)]
    fn put_ceiling(&self, reserve: bool, after: Bucket) {
        put(CEILINGS.get_ptr_mut(u32::from(reserve)).map(<*mut [u64; 8]>::cast), after);
    }
}

/// A function by itself, so that the verifier looks at it once, and not for every way that leads to it.
#[inline(always)]
fn listed_v4(generation: u64, address: u64) -> u64 {
    let Some(lists) = LISTS.get(u32::from(generation != 0)) else { return 0 };
    search(&InV4(&lists.v4), Key { first: address, rest: 0 }) as u64
}

/// As above.
#[inline(always)]
fn listed_v6(generation: u64, first: u64, rest: u64) -> u64 {
    let Some(lists) = LISTS.get(u32::from(generation != 0)) else { return 0 };
    search(&InV6(&lists.v6), Key { first, rest }) as u64
}

fn rate([interval_ns, slack_ns]: [u64; 2]) -> Rate {
    Rate { interval_ns, slack_ns }
}

/// The word of a map's element.
#[inline(always)]
fn read(element: Option<*const u64>) -> Option<u64> {
    // SAFETY: an element of a map stays memory while the program runs, and a word is read as a whole.
    element.map(|word| unsafe { word.read_volatile() })
}

/// Without an exchange that is atomic, which the BPF target of Rust does not have: of two processors that take from one bucket
/// in the same few nanoseconds, both get the same token.
#[inline(always)]
fn put(element: Option<*mut u64>, after: Bucket) {
    if let Some(word) = element {
        // SAFETY: as above; it is written as a whole.
        unsafe { word.write_volatile(after.0) };
    }
}

struct InV4<'a>(&'a ListsV4);

struct InV6<'a>(&'a ListsV6);

/// Indexes by a number that the verifier must see to be in bounds: the bounds check of a slice may be moved away from its use.
macro_rules! listing {
    ($name:ident, $rest:expr) => {
        impl Listing for $name<'_> {
            #[inline(always)]
            fn base(&self) -> u64 {
                self.0.base
            }

            #[inline(always)]
            #[expect(clippy::cast_possible_truncation, reason = "the daemon puts a number below 64 there")]
            fn shift(&self) -> u32 {
                self.0.shift as u32
            }

            #[inline(always)]
            fn slot(&self, slot: usize) -> Option<u32> {
                self.0.slots.get(slot).copied()
            }

            #[inline(always)]
            fn first(&self, number: u32) -> Option<u64> {
                let number = number as usize & (MAX_BOUNDARIES - 1);
                self.0.firsts.get(number).copied().map(u64::from)
            }

            #[inline(always)]
            fn rest(&self, number: u32) -> Option<u64> {
                let rest: fn(&Self, usize) -> Option<u64> = $rest;
                rest(self, number as usize & (MAX_BOUNDARIES - 1))
            }

            #[inline(always)]
            fn listed(&self, number: u32) -> Option<Listed> {
                let number = number as usize & (MAX_BOUNDARIES - 1);
                Some(Listed::from_number(u64::from(*self.0.listed.get(number)?)))
            }
        }
    };
}

listing!(InV4, |_, _| Some(0));
listing!(InV6, |this, number| this.0.rests.get(number).copied());

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    unreachable!("built for the BPF target only");
}
