//! The packet datapath: flows that have left their sockets. What one end sends is translated on its way in, and sent on to
//! the other end; the stack of this host sees nothing of it.
//!
//! `ingress` and `egress` are attached to interfaces; `control` is attached to nothing: the daemon runs it.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod ageing;
mod bare;
mod control;
mod forward;
mod frame;
mod handover;
mod missed;
mod narrow;
mod order;
mod others;
mod quoted;
mod syn;
mod unusual;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_spin_lock};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier, map};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::{
    COUNTER_COUNT, Counter, EVENTS_BYTES, Entry, Handover, Key, MAX_ENTRIES, MAX_HANDOVERS, MAX_SERVERS,
    PORT_WORDS, STATE_HANDOVERS, STATE_WORDS, Server, state, watch,
};
use proxy_common::packet::options::Walk;

/// Without preallocation, room for flows to come costs no memory.
const AS_NEEDED: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static FLOWS: HashMap<Key, Entry, MAX_ENTRIES, AS_NEEDED> = HashMap::new();

#[btf_map]
pub(crate) static HANDOVERS: HashMap<u32, Locked, MAX_HANDOVERS, AS_NEEDED> = HashMap::new();

#[btf_map]
pub(crate) static WITHHELD: HashMap<u64, u32, MAX_HANDOVERS, AS_NEEDED> = HashMap::new();

#[btf_map]
static STATE: Array<u32, { STATE_WORDS as usize }> = Array::new();

#[btf_map]
pub(crate) static AGEING: Array<ageing::Ageing, 1> = Array::new();

#[btf_map]
pub(crate) static WATCH: Array<u32, { watch::WORDS }> = Array::new();

#[btf_map]
pub(crate) static SERVERS: Array<Server, MAX_SERVERS> = Array::new();

#[btf_map]
pub(crate) static PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Too large for the stack, and what follows, too.
#[btf_map]
static FRAMES: PerCpuArray<frame::Frame, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static WALKS: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// A hand-over is looked at and changed by packets of both legs, on any CPU, and by the daemon's commands.
#[repr(C)]
pub(crate) struct Locked {
    pub(crate) lock: bpf_spin_lock,
    pub(crate) handover: Handover,
}

/// On to the next program, or to the stack (`TC_ACT_UNSPEC`, `TCX_NEXT`).
pub(crate) const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
pub(crate) const DROP: i32 = 2;

/// The mark of a copy of a packet that is on its way to a draining socket.
pub(crate) const COPY_MARK: u32 = 0x5b11_ce01;

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn ingress(ctx: TcContext) -> i32 {
    if !bare::has_ethernet(&ctx) {
        let verdict = bare::enter(&ctx);
        if verdict != bare::GO_ON {
            return verdict;
        }
    } else if others::is_of_others(&ctx) {
        return PASS;
    }
    let Some(frame) = FRAMES.get_ptr_mut(0) else { return PASS };
    // SAFETY: an element of a map that is this CPU's: softirqs do not nest on it.
    let frame = unsafe { &mut *frame };
    if !frame::read(&ctx, frame) {
        return quoted::translate(&ctx);
    }
    let Some(entry) = FLOWS.get_ptr_mut(frame.key) else { return PASS };
    // SAFETY: an element of a map, which is memory as long as this program runs. Others write it at the same time, by the rules of `Entry`, "Who
    // writes what": no word is seen in halves, and what is read twice may differ, which no decision here takes amiss.
    let entry = unsafe { &mut *entry };
    let state = entry.state;
    if unusual::is(&ctx, frame) && (state == state::FORWARD || state == state::HELD || state == state::ARMED)
    {
        let verdict = unusual::mend(&ctx, frame);
        if verdict != unusual::MENDED {
            return verdict;
        }
    }
    if state == state::FORWARD || (state == state::HELD && !forward::holds(frame, entry)) {
        if narrow::is_large(&ctx, frame) {
            let verdict = narrow::turn_back(&ctx, frame, entry);
            if verdict != narrow::FITS {
                return verdict;
            }
        }
        let looked = forward::look(frame, entry);
        return forward::settled(&ctx, frame, entry, looked);
    }
    match state {
        state::ARMED => {
            // Also before the flip, which may come while this runs.
            let looked = if handover::is_copy(&ctx) { 0 } else { forward::look(frame, entry) };
            handover::arriving(&ctx, frame, entry, looked)
        }
        state::HELD => DROP,
        state::ENDED => forward::ended(frame, entry),
        _ => PASS,
    }
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn egress(ctx: TcContext) -> i32 {
    // Nearly always there is nothing to do.
    let handovers = STATE.get_ptr(STATE_HANDOVERS);
    // SAFETY: an element of a map, and a whole word.
    let is_busy = handovers.is_some_and(|count| unsafe { count.read_volatile() } != 0);
    if (is_busy || others::may_be_reset(&ctx))
        && !others::is_by_others(&ctx)
        && let Some(frame) = FRAMES.get_ptr_mut(0)
    {
        // SAFETY: as above.
        let frame = unsafe { &mut *frame };
        if frame::read(&ctx, frame) {
            if missed::is_answer(&ctx, frame) {
                count(Counter::Missed, 1);
                return DROP;
            }
            if is_busy {
                syn::leaving(&ctx, frame);
                handover::leaving(&ctx, frame);
            }
        }
    }
    PASS
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn control(ctx: TcContext) -> i32 {
    control::run(&ctx) as i32
}

#[inline(always)]
pub(crate) fn count(counter: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU; softirqs do not nest on it.
        unsafe { *value += by };
    }
}

/// Asks the daemon to look at the flow of this entry: events bear the key of the client's packets.
#[inline(never)]
pub(crate) fn tell(key: &Key, entry: &Entry) {
    let key = if entry.leg == 0 { *key } else { entry.other() };
    if EVENTS.output::<Key>(key, 0).is_err() {
        count(Counter::LostEvents, 1);
    }
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
