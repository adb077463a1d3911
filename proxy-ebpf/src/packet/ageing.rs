//! A timer that forgets flows whose ends have gone, while no daemon runs: see `proxy_common::abi::packet::AGEING`.
//!
//! Timers of BPF are there since Linux 5.15. One lives as long as its map has a descriptor or a pin.

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use core::ffi::c_void;
use proxy_common::abi::packet::{Answer, Counter, DEAD_MS, Key, PORTS_AT_A_TIME, watch};
use proxy_common::packet::ageing::{Limits, is_due};

use crate::forward::now_ms;
use crate::{AGEING, FLOWS, SERVERS, WATCH, count};

/// What the array holds. The kernel finds the timer in it by the name of its type.
#[repr(C)]
pub(crate) struct Ageing {
    pub(crate) timer: bpf_timer,
}

/// Between two looks at the daemon, and between two rounds.
const REST_NS: u64 = 1_000_000_000;
/// Between two parts of a round.
const PAUSE_NS: u64 = 4_000_000;

/// `CLOCK_MONOTONIC`.
const CLOCK: u64 = 1;

/// Starts the timer, or has it run this program from now on and not that of an earlier daemon.
#[inline(always)]
pub(crate) fn start() -> Answer {
    let Some(ageing) = AGEING.get_ptr_mut(0) else { return Answer::Unknown };
    // SAFETY: the timer is that of the map, and the callback is made for it.
    let started = unsafe {
        let timer = &raw mut (*ageing).timer;
        // An earlier daemon may have done that.
        bpf_timer_init(timer, (&raw const AGEING).cast_mut().cast(), CLOCK);
        bpf_timer_set_callback(timer, (tick as *const ()).cast_mut().cast()) == 0
            && bpf_timer_start(timer, REST_NS, 0) == 0
    };
    if started { Answer::Done } else { Answer::Malformed }
}

unsafe extern "C" fn tick(_map: *mut c_void, _key: *mut c_void, timer: *mut bpf_timer) -> i64 {
    let pause = if is_tended() { REST_NS } else { look() };
    // SAFETY: the kernel gives the element of the map, which begins with the timer.
    unsafe { bpf_timer_start(timer, pause, 0) };
    0
}

#[inline(always)]
fn word(index: u32) -> u32 {
    // SAFETY: an element of a map, and a whole word.
    WATCH.get_ptr(index).map_or(0, |word| unsafe { word.read_volatile() })
}

#[inline(always)]
fn set_word(index: u32, value: u32) {
    if let Some(word) = WATCH.get_ptr_mut(index) {
        // SAFETY: as above.
        unsafe { word.write_volatile(value) };
    }
}

/// Whether a daemon looks after the flows.
#[inline(always)]
fn is_tended() -> bool {
    now_ms().wrapping_sub(word(watch::BEAT)) < DEAD_MS
}

/// Part of a round.
struct Round {
    server: u32,
    port: u32,
    servers: u32,
    now_ms: u32,
    limits: Limits,
}

/// Looks at some flows. Says when to look at the next ones.
#[inline(always)]
fn look() -> u64 {
    // SAFETY: needs nothing.
    let begun = unsafe { bpf_ktime_get_ns() };
    let mut round = Round {
        server: word(watch::SERVER),
        port: word(watch::PORT),
        servers: word(watch::SERVERS),
        now_ms: now_ms(),
        limits: Limits {
            idle: word(watch::IDLE),
            half_close: word(watch::HALF_CLOSE),
            linger: word(watch::LINGER),
        },
    };
    // SAFETY: the callback gets what it expects, and runs before this returns.
    unsafe {
        bpf_loop(PORTS_AT_A_TIME, (step as *const ()).cast_mut().cast(), (&raw mut round).cast(), 0);
    }
    let is_whole = round.server >= round.servers;
    set_word(watch::SERVER, if is_whole { 0 } else { round.server });
    set_word(watch::PORT, if is_whole { 0 } else { round.port });
    // SAFETY: needs nothing.
    let took = unsafe { bpf_ktime_get_ns() }.wrapping_sub(begun);
    if took > u64::from(word(watch::LONGEST)) {
        set_word(watch::LONGEST, u32::try_from(took).unwrap_or(u32::MAX));
    }
    if is_whole {
        set_word(watch::ROUNDS, word(watch::ROUNDS).wrapping_add(1));
        REST_NS
    } else {
        PAUSE_NS
    }
}

unsafe extern "C" fn step(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `look` gives a `Round` that lives as long as the loop.
    let round = unsafe { &mut *context.cast::<Round>() };
    if round.server >= round.servers {
        return 1;
    }
    let Some(server) = SERVERS.get(round.server) else {
        round.server = round.servers;
        return 1;
    };
    let port = round.port.max(u32::from(server.first));
    if port > u32::from(server.last) {
        round.server += 1;
        round.port = 0;
        return 0;
    }
    round.port = port + 1;
    forget_if_due(&server.key(u16::try_from(port).unwrap_or(0)), round);
    0
}

#[inline(always)]
fn forget_if_due(key: &Key, round: &Round) {
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    let Some(server) = (unsafe { FLOWS.get(key) }) else { return };
    let other = server.other();
    // Without the other half it is nothing, and is as old as it is.
    // SAFETY: as above.
    let client = unsafe { FLOWS.get(other) }.unwrap_or(server);
    if is_due(client, server, round.now_ms, &round.limits) {
        let _ = FLOWS.remove(other);
        let _ = FLOWS.remove(key);
        count(Counter::Aged, 1);
    }
}
