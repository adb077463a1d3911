//! Packets that go on to the other end.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_loop, bpf_redirect_neigh, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use core::ptr::null_mut;
use proxy_common::abi::packet::{Counter, Entry, flag, state};
use proxy_common::packet::claim::note_claim;
use proxy_common::packet::header::{Segment, Shift, hear, tcp};
use proxy_common::packet::options::{MAX, USUAL, USUAL_BYTES, Walk};
use proxy_common::packet::restore::{brings_more, is_held};
use proxy_common::packet::seq_validation::{
    self, Acceptance, DOUBTED, NEWS, is_over, is_reset, learn, validate,
};
use proxy_common::packet::sum::Difference;

use crate::frame::{Frame, Onward, TCP_SIZE, mend_sum, skb, store, write_network};
use crate::{COPY_MARK, DROP, FLOWS, PASS, WALKS, count, tell};

/// `TCP_SIZE` as a count of words is 5.
pub(crate) const OPTIONS_MAX: u32 = 40;
const _: () = assert!(OPTIONS_MAX as usize == MAX);

/// A packet of a flow that has left its sockets.
///
/// Not inlined, as the other things that a packet may be: they have the same part of the stack then, one at a time.
#[inline(never)]
pub(crate) fn settled(ctx: &TcContext, frame: &Frame, entry: &mut Entry, looked: u32) -> i32 {
    // SAFETY: the context is the one that the kernel called this program with.
    if unsafe { (*skb(ctx)).mark } == COPY_MARK {
        // The socket that it was meant for has gone in the meantime.
        return DROP;
    }
    let segment = frame.header.segment(frame.payload);
    if segment.has(tcp::SYN) && begins_another(entry, &segment) {
        entry.state = state::DEAD;
        tell(&frame.key, entry);
        return PASS;
    }
    let shift = Shift::of(entry);
    onward(ctx, frame, entry, &shift, looked & FITS != 0)
}

/// Bits of what [`look`] says: the packet fits what is known,
pub(crate) const FITS: u32 = 1;
/// what it acknowledges is to be believed, or that it resets the connection.
pub(crate) const TRUSTED: u32 = 2;

/// Learns what there is to be learnt of a packet. Before it is translated: both together need more of the stack than there is.
#[inline(never)]
pub(crate) fn look(frame: &Frame, entry: &mut Entry) -> u32 {
    let segment = &frame.header.segment(frame.payload);
    let mut code = weigh(entry, segment, frame.payload);
    if (code == 0 || code == OLD || code == LESS) && reconcile(frame, entry, segment) {
        code = ALL;
    }
    if segment.has(tcp::FIN | tcp::RST) {
        if record_end(entry, segment, code) {
            tell(&frame.key, entry);
        }
    } else if code == 0 {
        count(Counter::Invalid, 1);
    }
    note(entry, segment, frame.payload, code);
    match code {
        ALL | LESS | HEARD => FITS | TRUSTED,
        SENT => FITS,
        RESET => TRUSTED,
        _ => 0,
    }
}

#[inline(never)]
fn note(entry: &mut Entry, segment: &Segment, payload: u32, code: u32) {
    learn(entry, segment, payload, acceptance_of(code), now_ms());
}

/// A packet that does not fit what is known. Whether it does now, since both peers have said the same.
#[inline(never)]
fn reconcile(frame: &Frame, entry: &mut Entry, segment: &Segment) -> bool {
    let Some(other) = FLOWS.get_ptr_mut(entry.other()) else { return false };
    // SAFETY: an element of the map, shared as `entry` is: see `Entry`, "Who writes what". Who comes between two of its words is one more
    // packet that does not fit, and is followed by ones that do. They are two elements: no two connections of a
    // host have the same addresses and ports.
    let is_agreed = note_claim(entry, unsafe { &mut *other }, segment);
    if is_agreed {
        tell(&frame.key, entry);
    }
    is_agreed
}

/// Whether a packet of a flow that is about to get sockets again is kept from the other end: if it brings bytes that were not
/// sent before. All others go on, so that the ends come to agree on what has arrived.
#[inline(always)]
pub(crate) fn holds(frame: &Frame, entry: &mut Entry) -> bool {
    let (segment, now_ms) = (frame.header.segment(frame.payload), now_ms());
    if !is_held(entry, now_ms) || !brings_more(entry, &segment, frame.payload) {
        return false;
    }
    if matches!(weigh(entry, &segment, frame.payload), ALL | LESS | HEARD) {
        hear(entry, &segment, now_ms);
    }
    count(Counter::Held, 1);
    true
}

/// A packet of a flow that we have ended: the stack answers it with a reset. Who sends one himself, or begins anew, knows. That is
/// believed without a look at its number: it only ends the telling.
#[inline(always)]
pub(crate) fn ended(frame: &Frame, entry: &mut Entry) -> i32 {
    match frame.header.flags & (tcp::RST | tcp::SYN | tcp::ACK) {
        tcp::SYN => {
            entry.state = state::DEAD;
            tell(&frame.key, entry);
        }
        flags if flags & tcp::RST != 0 => entry.reset |= flag::RST,
        _ => {}
    }
    PASS
}

/// Whether the client has taken the port of a connection that is over for a new one, which is for the listener. A function of its
/// own, as others here: what rare packets need of the stack, of which there are 512 bytes, is not taken by all.
#[inline(never)]
fn begins_another(entry: &Entry, segment: &Segment) -> bool {
    if segment.has(tcp::ACK) {
        return false;
    }
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    unsafe { FLOWS.get(entry.other()) }.is_none_or(|other| is_over(entry, other))
}

/// Sends the packet on to the other end, translated by `shift`. `fits`: its time stamp is its sender's.
#[inline(always)]
pub(crate) fn onward(ctx: &TcContext, frame: &Frame, entry: &mut Entry, shift: &Shift, fits: bool) -> i32 {
    if frame.hops <= 1 {
        count(Counter::Expired, 1);
        return DROP;
    }
    if entry.device == 0 {
        count(Counter::NoRoute, 1);
        return DROP;
    }
    let Some(stamp) = translate(ctx, frame, entry, shift) else {
        count(Counter::Untranslatable, 1);
        return DROP;
    };
    if fits && let Some(stamp) = stamp {
        entry.stamped = stamp;
    }
    count(Counter::Forwarded, 1);
    count(Counter::ForwardedBytes, frame.payload.into());
    // The kernel looks up the next hop itself: it may change at any time, without anyone to tell us.
    // SAFETY: needs nothing.
    let verdict = unsafe { bpf_redirect_neigh(entry.device, null_mut(), 0, 0) };
    i32::try_from(verdict).unwrap_or(DROP)
}

const ALL: u32 = 1;
const HEARD: u32 = 2;
const RESET: u32 = 3;
const SENT: u32 = 4;
const OLD: u32 = 5;
const LESS: u32 = 6;

const fn acceptance_of(code: u32) -> Acceptance {
    match code {
        ALL => Acceptance::All,
        LESS => Acceptance::Less,
        SENT => Acceptance::Sent,
        HEARD => Acceptance::Heard,
        OLD => Acceptance::Old,
        _ => Acceptance::Nothing,
    }
}

/// What is to be learnt of a packet, and whether it resets the connection. As a number: of a pair or an `Option` the compiler leaves undefined
/// what is not there.
#[inline(never)]
fn weigh(entry: &Entry, segment: &Segment, payload: u32) -> u32 {
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    let Some(other) = (unsafe { FLOWS.get(entry.other()) }) else { return 0 };
    if segment.has(tcp::RST) {
        return if is_reset(entry, other, segment) { RESET } else { 0 };
    }
    match validate(entry, other, segment, payload) {
        Acceptance::All => ALL,
        Acceptance::Less => LESS,
        Acceptance::Sent => SENT,
        Acceptance::Heard => HEARD,
        Acceptance::Old => OLD,
        Acceptance::Nothing => 0,
    }
}

/// Notes an end. Whether that is news.
#[inline(never)]
fn record_end(entry: &mut Entry, segment: &Segment, code: u32) -> bool {
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    let Some(other) = (unsafe { FLOWS.get(entry.other()) }) else { return false };
    let recorded = seq_validation::record_end(entry, other, segment, acceptance_of(code));
    if recorded & DOUBTED != 0 {
        count(Counter::Invalid, 1);
    }
    recorded & NEWS != 0
}

/// Translates the headers. None: that cannot be done; else the time stamp that was there, if any.
#[inline(always)]
fn translate(ctx: &TcContext, frame: &Frame, entry: &Entry, shift: &Shift) -> Option<Option<u32>> {
    let onward = Onward { source: entry.source, target: entry.target };
    let pseudo = write_network(ctx, frame, &onward)?;
    let mut header = frame.header;
    let own = shift.translate(&mut header, [entry.source_port, entry.target_port]);
    let transport = frame.transport();
    if !store(ctx, transport, &header, 0) {
        return None;
    }
    let len = header.size().wrapping_sub(TCP_SIZE);
    let (stamp, options) = if len == 0 {
        (None, Difference::NONE)
    } else {
        translate_options(ctx, transport + TCP_SIZE, len, shift)?
    };
    mend_sum(ctx, transport, own.and(options), pseudo).then_some(stamp)
}

#[inline(always)]
fn translate_options(ctx: &TcContext, at: u32, len: u32, shift: &Shift) -> Option<(Option<u32>, Difference)> {
    if len == USUAL_BYTES {
        let mut usual = [0_u32; 3];
        if !crate::frame::load(ctx, at, &mut usual) {
            return None;
        }
        let [kind, old_stamp, old_echo] = usual;
        if kind == USUAL {
            let stamp = u32::from_be(old_stamp);
            let [new_stamp, new_echo] = shift.stamps(stamp, u32::from_be(old_echo)).map(u32::to_be);
            let written = store(ctx, at + 4, &[new_stamp, new_echo], 0);
            let difference = Difference::NONE.word(old_stamp, new_stamp).word(old_echo, new_echo);
            return written.then_some((Some(stamp), difference));
        }
    }
    walk_options(ctx, at, len, shift)
}

/// What a step of the walk is given.
struct Stroll<'a> {
    walk: *mut Walk,
    shift: &'a Shift,
}

unsafe extern "C" fn stroll(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `walk_options` gives a `Stroll` that lives as long as the loop, with an element of a map that is this CPU's.
    unsafe {
        let stroll = &*context.cast::<Stroll<'_>>();
        i64::from(!(*stroll.walk).step(stroll.shift))
    }
}

#[inline(always)]
fn walk_options(ctx: &TcContext, at: u32, len: u32, shift: &Shift) -> Option<(Option<u32>, Difference)> {
    count(Counter::Walked, 1);
    let walk = WALKS.get_ptr_mut(0)?;
    load_options(ctx, at, len, walk)?;
    // SAFETY: an element of a map that is this CPU's: softirqs do not nest on it.
    let before = unsafe { sum_words(walk) };
    let mut stroll_ = Stroll { walk, shift };
    // SAFETY: the callback gets what it expects, and runs before this returns.
    unsafe {
        bpf_loop(OPTIONS_MAX, (stroll as *const ()).cast_mut().cast(), (&raw mut stroll_).cast(), 0);
    }
    // SAFETY: as above.
    let (after, stamp) = unsafe { (sum_words(walk), ((*walk).has_stamp != 0).then_some((*walk).stamp)) };
    let difference = store_changed(ctx, at, len, before, after)?;
    Some((stamp, difference))
}

pub(crate) const OPTIONS_WORDS: usize = MAX / 4;

/// Writes those words of options that have changed.
#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    reason = "an iterator would keep both on the stack, which has no room for them"
)]
pub(crate) fn store_changed(
    ctx: &TcContext,
    at: u32,
    len: u32,
    before: [u32; OPTIONS_WORDS],
    after: [u32; OPTIONS_WORDS],
) -> Option<Difference> {
    let (mut difference, mut place, mut i) = (Difference::NONE, 0, 0);
    while i < OPTIONS_WORDS {
        difference = difference.word(before[i], after[i]);
        if place < len && before[i] != after[i] && !store(ctx, at + place, &after[i], 0) {
            return None;
        }
        place += 4;
        i += 1;
    }
    Some(difference)
}

/// The words of the options.
///
/// # Safety
/// `walk` is an element of a map.
#[inline(always)]
pub(crate) unsafe fn sum_words(walk: *const Walk) -> [u32; OPTIONS_WORDS] {
    // SAFETY: the caller's; the bytes are aligned since they come first.
    unsafe { walk.cast::<[u32; OPTIONS_WORDS]>().read() }
}

/// Reads options into a walk that begins.
#[inline(always)]
pub(crate) fn load_options(ctx: &TcContext, at: u32, len: u32, walk: *mut Walk) -> Option<()> {
    if len == 0 || len > OPTIONS_MAX {
        return None;
    }
    // A multiple of 4. So written, the verifier sees that it is no more than there is room for, and not 0.
    let len = (core::hint::black_box(len).wrapping_sub(4) & 60) + 4;
    // SAFETY: an element of a map that is this CPU's: softirqs do not nest on it. The helper writes no more than there is room.
    unsafe {
        (*walk).bytes = [0; 128];
        ((*walk).len, (*walk).at, (*walk).has_stamp) = (len, 0, 0);
        (bpf_skb_load_bytes(skb(ctx).cast(), at, walk.cast(), len) == 0).then_some(())
    }
}

/// Milliseconds of the monotonic clock.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "they wrap round every 49 days, and differences are taken"
)]
pub(crate) fn now_ms() -> u32 {
    // SAFETY: needs nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    (now / 1_000_000) as u32
}
