//! The verdict of the sockmap datapath: every segment that a spliced socket receives is redirected into the
//! egress of its peer, or left for userspace where that cannot be done. Nothing is ever dropped.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{map, stream_verdict};
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf, SockHash};
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use proxy_common::abi::sockmap::{
    COUNTER_COUNT, Counter, Direction, EVENTS_BYTES, MAX_SOCKETS, PASS, REDIRECT,
};

#[map]
static SOCKETS: SockHash<u64> = SockHash::with_max_entries(MAX_SOCKETS, 0);

#[map]
static DIRECTIONS: HashMap<u64, Direction> = HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Idle capacity costs no memory: entries are made when flows are (`include/uapi/linux/bpf.h`).
const BPF_F_NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

/// A passing direction tells userspace again every so many segments, since an event may find the ring full.
const REMIND_EVERY: u64 = 64;

#[stream_verdict]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn splice(ctx: SkBuffContext) -> u32 {
    let len = u64::from(ctx.len());
    if len == 0 {
        // A bare FIN: there is nothing to carry, and passing it would queue an empty message for ever.
        return SK_DROP;
    }
    // SAFETY: the context is the one the kernel called this program with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(direction) = DIRECTIONS.get_ptr_mut(cookie) else {
        count(Counter::UnknownSockets, 1);
        return SK_PASS;
    };
    // SAFETY: the entry lives at least until the end of this RCU section, and this program is its only writer,
    // under the lock of the socket that the entry belongs to.
    let direction = unsafe { &mut *direction };
    direction.segments += 1;
    if direction.mode == REDIRECT {
        // An unknown target makes the helper answer SK_DROP; the bytes must not be lost, so they are passed.
        if SOCKETS.redirect_skb(&ctx, direction.target, 0) == i64::from(SK_PASS) {
            direction.redirected += len;
            count(Counter::RedirectedBytes, len);
            count(Counter::RedirectedSegments, 1);
            return SK_PASS;
        }
        direction.mode = PASS;
        count(Counter::RedirectFailures, 1);
        debug!(&ctx, "socket {} has no target {} any more, {} bytes passed", cookie, direction.target, len);
        tell(cookie);
    } else if direction.segments.is_multiple_of(REMIND_EVERY) {
        tell(cookie);
    }
    direction.passed += len;
    count(Counter::PassedBytes, len);
    SK_PASS
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
    // A full ring is no loss: the direction tells again, and userspace looks at it on every wake-up.
    let _ = EVENTS.output::<u64>(cookie, 0);
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used here are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    unreachable!("built for the BPF target only");
}
