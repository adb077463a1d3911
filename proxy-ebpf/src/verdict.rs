//! The verdict on what a spliced socket receives: every segment that a spliced socket receives is redirected into the
//! egress of its peer, or left for userspace where that cannot be done. Nothing is ever dropped.
//!
//! A redirect has no backpressure: the kernel acknowledges the bytes before the target has room. So the verdict looks
//! at what the target's peer has acknowledged, and passes bytes to userspace once too many are on their way: on the
//! socket's own queue they close its receive window, which stops the sender.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{
    bpf_get_socket_cookie, bpf_ktime_get_coarse_ns, bpf_map_lookup_elem, bpf_probe_read_kernel,
    bpf_sk_release, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash};
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use proxy_common::abi::sockmap::{COUNTER_COUNT, Counter, Direction, EVENTS_BYTES, MAX_SOCKETS, Target};

/// Every spliced socket.
#[map]
pub(crate) static SOCKETS: SockHash<u64> = SockHash::with_max_entries(MAX_SOCKETS, 0);

/// Without preallocation, idle capacity costs no memory.
#[map]
static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

/// `BPF_F_MMAPABLE` (`include/uapi/linux/bpf.h`): the daemon has it mapped.
const MAPPED: u32 = 1 << 10;

/// What they and the daemon tell each other.
#[map]
pub(crate) static DIRECTIONS: Array<Direction> = Array::with_max_entries(MAX_SOCKETS, MAPPED);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Set by the daemon before it loads the program, from the BTF of the running kernel.
#[unsafe(no_mangle)]
static SND_UNA_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static WRITE_SEQ_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SRTT_US_OFFSET: Global<u32> = Global::new(0);

/// A passing direction tells userspace again every so many bytes, since an event may find the ring full.
const REMIND_EVERY: u64 = 256 * 1024;

/// What becomes of one segment.
#[inline(always)]
pub(crate) fn decide(ctx: &SkBuffContext) -> u32 {
    let len = u64::from(ctx.len());
    if len == 0 {
        // A bare FIN: there is nothing to carry, and passing it would queue an empty message for ever.
        return SK_DROP;
    }
    // SAFETY: the context is the one the kernel called this program with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(direction) = direction(cookie) else {
        count(Counter::UnknownSockets, 1);
        tell(cookie);
        return SK_PASS;
    };
    // SAFETY: the slot is this socket's until after it is closed, and closing it waits for the lock that this program
    // runs under. What the verdict writes has no other writer.
    let direction = unsafe { &mut *direction };
    // SAFETY: needs nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    direction.active_ns = now;
    let seen = direction.seen();
    if seen < others(&raw const direction.call_at) && seen + len >= others(&raw const direction.call_at) {
        tell(cookie);
    }
    let taken = others(&raw const direction.taken);
    if direction.passed != taken {
        let reminded = direction.passed / REMIND_EVERY;
        pass(direction, len);
        if direction.passed / REMIND_EVERY != reminded {
            tell(cookie);
        }
        return SK_PASS;
    }
    // Whatever was passed is written to the target: redirected bytes cannot overtake it any more.
    if others(&raw const direction.hold) != 0 {
        pass(direction, len);
        tell(cookie);
        return SK_PASS;
    }
    match credit(direction, taken, now) {
        Credit::Some => {
            if SOCKETS.redirect_skb(ctx, direction.target, 0) == i64::from(SK_PASS) {
                direction.redirected += len;
                count(Counter::RedirectedBytes, len);
                count(Counter::RedirectedSegments, 1);
                return SK_PASS;
            }
            count(Counter::RedirectFailures, 1);
        }
        Credit::Spent => count(Counter::CreditStops, 1),
        Credit::NoTarget => {
            count(Counter::RedirectFailures, 1);
            debug!(ctx, "socket {} has no target {}, {} bytes passed", cookie, direction.target, len);
        }
    }
    // Counted first: who is told must find something to do.
    pass(direction, len);
    tell(cookie);
    SK_PASS
}

#[inline(always)]
fn direction(cookie: u64) -> Option<*mut Direction> {
    // SAFETY: the value is one aligned word, written before the socket can be found.
    let slot = unsafe { SLOTS.get(cookie) }.copied()?;
    DIRECTIONS.get_ptr_mut(slot)
}

#[inline(always)]
fn pass(direction: &mut Direction, len: u64) {
    direction.passed += len;
    count(Counter::PassedBytes, len);
}

enum Credit {
    Some,
    Spent,
    NoTarget,
}

/// Asks the target how much of what it was given is acknowledged.
#[inline(always)]
fn credit(direction: &mut Direction, taken: u64, now: u64) -> Credit {
    let mut key = direction.target;
    // SAFETY: SOCKETS is a map, and its keys are u64. What is found is held until it is released below.
    let socket =
        unsafe { bpf_map_lookup_elem((&raw const SOCKETS).cast_mut().cast(), (&raw mut key).cast()) };
    if socket.is_null() {
        return Credit::NoTarget;
    }
    // SAFETY: `socket` is a socket that we hold.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
    let target = if tcp.is_null() { None } else { look_at(tcp.cast()) };
    // SAFETY: `socket` was looked up above, and is not used below.
    unsafe { bpf_sk_release(socket) };
    match target {
        Some(target) if direction.has_credit(&target, taken, now) => Credit::Some,
        _ => Credit::Spent,
    }
}

/// What is to be known of a target, given its `tcp_sock`.
#[inline(always)]
pub(crate) fn look_at(tcp: *const u8) -> Option<Target> {
    Some(Target {
        snd_una: read(tcp, SND_UNA_OFFSET.load())?,
        write_seq: read(tcp, WRITE_SEQ_OFFSET.load())?,
        // The kernel keeps eight times the value (`struct tcp_sock`).
        round_trip_us: read(tcp, SRTT_US_OFFSET.load())? >> 3,
    })
}

/// Reads a field of a `tcp_sock`. The target's lock is not ours: a value that is a moment old is as good.
#[inline(always)]
pub(crate) fn read(tcp: *const u8, offset: u32) -> Option<u32> {
    // SAFETY: the helper checks the address; the offset is that of a u32 in the structure.
    unsafe { bpf_probe_read_kernel(tcp.wrapping_add(offset as usize).cast::<u32>()) }.ok()
}

/// A word that somebody else writes at any moment.
#[inline(always)]
pub(crate) fn others(word: *const u64) -> u64 {
    // SAFETY: the word is one of a live direction, aligned, and written whole.
    unsafe { word.read_volatile() }
}

#[inline(always)]
fn count(counter: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU; softirqs do not nest on it.
        unsafe { *value += by };
    }
}

#[inline(always)]
fn tell(cookie: u64) {
    if EVENTS.output::<u64>(cookie, 0).is_err() {
        count(Counter::LostEvents, 1);
    }
}
