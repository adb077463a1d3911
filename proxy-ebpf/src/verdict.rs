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
    bpf_sk_release, bpf_skb_adjust_room, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash};
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use proxy_common::abi::credit::low;
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
#[unsafe(no_mangle)]
pub(crate) static COPIED_SEQ_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CONTROL_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static USER_DATA_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static INGRESS_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static QUEUE_LENGTH_OFFSET: Global<u32> = Global::new(0);

/// The low bits of `sk_user_data` are flags (`SK_USER_DATA_PTRMASK` in `include/net/sock.h`).
const USER_DATA_FLAGS: u64 = 7;

/// A passing direction tells userspace again every so many bytes, since an event may find the ring full.
const REMIND_EVERY: u64 = 256 * 1024;

/// Most bytes that the kernel takes off a segment at a time (`sk_skb_adjust_room`), and how often that is done for one: enough
/// for 128 KiB, which is more than a segment can repeat without being dropped by TCP as a whole.
const CUT_MAX: u32 = 0xfff;
const CUTS_MAX: u32 = 33;

/// What becomes of one segment.
#[inline(always)]
pub(crate) fn decide(ctx: &SkBuffContext) -> u32 {
    if ctx.len() == 0 {
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
    // runs under. Other processors write it at the same time, but each word has one writer (`Direction`): those that are not the verdict's
    // are read by `others`, and nobody else writes its own.
    let direction = unsafe { &mut *direction };
    // SAFETY: needs nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    direction.active_ns = now;
    if !cut_repeated(ctx, direction) {
        // Anything but the next byte would be another stream. The daemon finds the flow stuck, and resets it.
        count(Counter::MisfitSegments, 1);
        tell(cookie);
        return SK_DROP;
    }
    let (seen, len) = (direction.seen(), u64::from(ctx.len()));
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
    let credit = if others(&raw const direction.hold) != 0 || is_target_passing(direction) {
        Credit::Withheld
    } else {
        credit(direction, taken, now)
    };
    let credit = match credit {
        Credit::Spent if has_queue(ctx) => Credit::Overdrawn,
        credit => credit,
    };
    if !redirect(ctx, direction, len, &credit) {
        // Counted first: who is told must find something to do.
        pass(direction, len);
        tell(cookie);
    }
    SK_PASS
}

/// Says whether the segment goes to the target.
#[inline(always)]
fn redirect(ctx: &SkBuffContext, direction: &mut Direction, len: u64, credit: &Credit) -> bool {
    match credit {
        Credit::Some => {}
        Credit::Overdrawn => count(Counter::OverdrawnBytes, len),
        Credit::Spent => {
            count(Counter::CreditStops, 1);
            return false;
        }
        Credit::Withheld => return false,
        Credit::NoTarget => {
            count(Counter::RedirectFailures, 1);
            debug!(
                ctx,
                "socket {} has no target {}, {} bytes passed", direction.source, direction.target, len
            );
            return false;
        }
    }
    if SOCKETS.redirect_skb(ctx, direction.target, 0) != i64::from(SK_PASS) {
        count(Counter::RedirectFailures, 1);
        return false;
    }
    direction.redirected += len;
    count(Counter::RedirectedBytes, len);
    count(Counter::RedirectedSegments, 1);
    true
}

/// Takes off the head of a segment what was seen before: a retransmission may hold both old and new bytes, and no kernel up to
/// 6.18 takes the old ones off before a verdict. Says whether that could be done.
#[inline(always)]
fn cut_repeated(ctx: &SkBuffContext, direction: &mut Direction) -> bool {
    // The first field of what TCP keeps with a segment (`struct tcp_skb_cb`) is its sequence number. The context is the
    // kernel's own `sk_buff`, which the helper may look at, as at any other memory.
    let Some(seq) = read::<u32>(ctx.skb.skb.cast(), CONTROL_OFFSET.load()) else { return false };
    let unread = match direction.start {
        0 => match own_tcp(ctx).and_then(|tcp| read(tcp, COPIED_SEQ_OFFSET.load())) {
            Some(unread) => unread,
            None => return false,
        },
        _ => 0,
    };
    let mut left = match direction.repeated(seq, unread) {
        Some(0) => return true,
        Some(repeated) => repeated,
        None => return false,
    };
    count(Counter::RepeatedBytes, u64::from(left));
    for _ in 0..CUTS_MAX {
        let cut = left.min(CUT_MAX);
        // SAFETY: the context is the one the kernel called this program with.
        let result = unsafe { bpf_skb_adjust_room(ctx.skb.skb.cast(), -cut.cast_signed(), 0, 0) };
        if result != 0 {
            return false;
        }
        left -= cut;
        if left == 0 {
            return true;
        }
    }
    false
}

/// The `tcp_sock` that receives, whose lock is ours.
#[inline(always)]
fn own_tcp(ctx: &SkBuffContext) -> Option<*const u8> {
    // SAFETY: the context is the one the kernel called this program with.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: the kernel calls with the socket that receives.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    (!tcp.is_null()).then_some(tcp.cast_const().cast())
}

/// Whether segments that the target receives are left to userspace. They stand in one queue with those that are redirected to
/// it, and behind any that still wait there they would not be charged to its receive buffer: its window would stay
/// open.
#[inline(always)]
fn is_target_passing(direction: &Direction) -> bool {
    let Some(back) = DIRECTIONS.get_ptr(low(direction.back)) else { return false };
    // SAFETY: an element of a map; both words are written whole, by others.
    unsafe { others(&raw const (*back).passed) != others(&raw const (*back).taken) }
}

/// Whether segments that were redirected to this socket still wait to be written to it: the kernel's worker is about to. None
/// may be passed as long, for the reason above.
#[inline(always)]
fn has_queue(ctx: &SkBuffContext) -> bool {
    queue_length(ctx).is_some_and(|length| length > 0)
}

#[inline(always)]
fn queue_length(ctx: &SkBuffContext) -> Option<u32> {
    let data: u64 = read(own_tcp(ctx)?, USER_DATA_OFFSET.load())?;
    let psock = (data & !USER_DATA_FLAGS) as *const u8;
    read(psock, INGRESS_OFFSET.load() + QUEUE_LENGTH_OFFSET.load())
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
    /// Spent, but there is no other way.
    Overdrawn,
    Withheld,
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
        round_trip_us: read::<u32>(tcp, SRTT_US_OFFSET.load())? >> 3,
    })
}

/// Reads a field of a structure of the kernel's. Its lock may not be ours: a value that is a moment old is as good.
#[inline(always)]
pub(crate) fn read<T>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; the offset is that of a field of this size, of which all bits are valid.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>()) }.ok()
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
