//! Packets of flows that are being handed over: see `proxy_common::packet::drain`.

use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_csum_diff, bpf_skb_change_tail, bpf_spin_lock, bpf_spin_unlock,
};
use aya_ebpf::programs::TcContext;
use core::ptr::null_mut;
use proxy_common::abi::packet::{Counter, Entry, phase, state};
use proxy_common::packet::drain::{Way, decide};
use proxy_common::packet::header::{Header, Shift, tcp};
use proxy_common::packet::seq::before;
use proxy_common::packet::sum::{Difference, Sum};

use crate::forward::{FITS, TRUSTED, load_options, onward, sum_words};
use crate::frame::{Frame, IPV6_SIZE, NETWORK, TCP_SIZE, mend_sum, skb, store};
use crate::{COPY_MARK, DROP, FLOWS, HANDOVERS, PASS, WALKS, count};

/// Where a socket stands.
struct Edge {
    received: u32,
    owed: u32,
}

/// A packet that comes in.
#[inline(never)]
pub(crate) fn arriving(ctx: &TcContext, frame: &Frame, entry: &mut Entry, looked: u32) -> i32 {
    let number = entry.handover;
    let Some(locked) = HANDOVERS.get_ptr_mut(number) else { return without(entry, number) };
    let segment = frame.header.segment(frame.payload);
    let second = entry.leg != 0;
    let is_copy = is_copy(ctx);
    // SAFETY: `locked` is an element of a map, and until it is unlocked no helper is called.
    unsafe { bpf_spin_lock(&raw mut (*locked).lock) };
    // SAFETY: the hand-over is written under its lock only (its keys not at all), so that it is ours as long as we have it.
    let handover = unsafe { &mut (*locked).handover };
    let way =
        if is_copy { Way::SocketAtEdge } else { decide(handover, second, &segment, looked & TRUSTED != 0) };
    let shift = Shift::draining(entry, handover, second);
    let [first, other] = handover.received;
    let received = if second { other } else { first };
    let owed = shift.least_ack.unwrap_or(0);
    // SAFETY: as above. The reference to the hand-over is not used below.
    unsafe { bpf_spin_unlock(&raw mut (*locked).lock) };
    if is_copy {
        return at_edge(ctx, frame, &Edge { received, owed });
    }
    match way {
        Way::Socket => return PASS,
        Way::SocketAtEdge => return at_edge(ctx, frame, &Edge { received, owed }),
        Way::Forward => {}
        Way::Both => copy(ctx),
    }
    onward(ctx, frame, entry, &shift, looked & FITS != 0)
}

/// A packet whose hand-over is over, or was called off, since its state was read. When it is over, the sockets must not take a byte any
/// more: the packet is dropped, and comes again.
#[inline(always)]
fn without(entry: &Entry, number: u32) -> i32 {
    // SAFETY: `entry` is an element of a map, which lives as long as the program runs; another processor may write this byte.
    let state = unsafe { (&raw const entry.state).read_volatile() };
    if number == 0 || state == state::FORWARD { DROP } else { PASS }
}

/// Whether the packet is a copy of one that has gone on to the other end.
#[inline(always)]
pub(crate) fn is_copy(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { (*skb(ctx)).mark == COPY_MARK }
}

/// Lets a copy of the packet come in again, with a mark.
#[inline(always)]
fn copy(ctx: &TcContext) {
    count(Counter::Copied, 1);
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe {
        let skb = skb(ctx);
        let mark = (*skb).mark;
        (*skb).mark = COPY_MARK;
        bpf_clone_redirect(skb, (*skb).ifindex, u64::from(BPF_F_INGRESS));
        (*skb).mark = mark;
    }
}

/// Makes a bare acknowledgement of the packet that the socket takes, and passes it on.
#[inline(always)]
fn at_edge(ctx: &TcContext, frame: &Frame, edge: &Edge) -> i32 {
    if cut(ctx, frame, edge).is_none() {
        count(Counter::Untranslatable, 1);
        return DROP;
    }
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { (*skb(ctx)).mark = 0 };
    PASS
}

#[inline(always)]
fn cut(ctx: &TcContext, frame: &Frame, edge: &Edge) -> Option<()> {
    let (transport, size) = (frame.transport(), frame.header.size());
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe {
        let skb = skb(ctx);
        let end = transport + size;
        if (*skb).len > end && bpf_skb_change_tail(skb, end, 0) != 0 {
            return None;
        }
    }
    let mut header = frame.header;
    header.seq = edge.received.to_be();
    if !before(u32::from_be(header.ack), edge.owed) {
        header.ack = edge.owed.to_be();
    }
    header.flags &= !(tcp::FIN | tcp::PSH);
    header.sum = 0;
    let pseudo = write_length(ctx, frame, size)?;
    header.sum = checksum(ctx, transport, &header, pseudo)?;
    store(ctx, transport, &header, u64::from(BPF_F_RECOMPUTE_CSUM)).then_some(())
}

/// In the place of an option of IPv6 that says how long the packet is (`PadN`).
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// Writes that there is no payload. Gives the sum of the pseudo header.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a header has 60 bytes at most")]
fn write_length(ctx: &TcContext, frame: &Frame, size: u32) -> Option<Sum> {
    let (key, tcp) = (&frame.key, 6_u16.to_be());
    let written = if frame.is_ipv4 {
        let mut ipv4 = frame.ipv4;
        ipv4.length = (size as u16 + 20).to_be();
        ipv4.sum = Difference::NONE.half(frame.ipv4.length, ipv4.length).apply(ipv4.sum);
        store(ctx, NETWORK, &ipv4, 0)
    } else {
        let length = (size + frame.network - frame.least_network()) as u16;
        // Where a card has given the sum of the whole packet, that is to stay right.
        let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
        store(ctx, NETWORK + 4, &length.to_be(), recompute)
            && (!frame.is_jumbo || store(ctx, NETWORK + IPV6_SIZE + 2, &PADDING, recompute))
    };
    let sum = Sum::default().word(u32::from(tcp)).word(u32::from((size as u16).to_be()));
    let ([a, b, c, d], [e, f, g, h]) = (key.source, key.target);
    let sum = if frame.is_ipv4 {
        sum.word(d).word(h)
    } else {
        sum.word(a).word(b).word(c).word(d).word(e).word(f).word(g).word(h)
    };
    written.then_some(sum)
}

#[inline(always)]
fn checksum(ctx: &TcContext, transport: u32, header: &Header, pseudo: Sum) -> Option<u16> {
    let mut sum = pseudo;
    let mut fixed = *header;
    // SAFETY: `fixed` is ours; its 20 bytes are read.
    let raw = unsafe { bpf_csum_diff(null_mut(), 0, (&raw mut fixed).cast(), TCP_SIZE, 0) };
    sum = sum.word(u32::try_from(raw).ok()?);
    let len = header.size().wrapping_sub(TCP_SIZE);
    if len > 0 {
        let walk = WALKS.get_ptr_mut(0)?;
        load_options(ctx, transport + TCP_SIZE, len, walk)?;
        // SAFETY: an element of a map that is this CPU's.
        let words = unsafe { sum_words(walk) };
        for word in words {
            sum = sum.word(word);
        }
    }
    Some(sum.checksum())
}

/// A packet that a socket sends. A draining one knows nothing of what has gone past it since: its acknowledgement is brought
/// up to what its peer was told last, since far behind that the peer drops it as too old.
#[inline(always)]
pub(crate) fn leaving(ctx: &TcContext, frame: &Frame) {
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    let Some(entry) = (unsafe { FLOWS.get(frame.key.reversed()) }) else { return };
    if entry.state != state::ARMED || frame.header.flags & tcp::ACK == 0 {
        return;
    }
    let Some(locked) = HANDOVERS.get_ptr(entry.handover) else { return };
    // SAFETY: an element of a map, of which words are read. They only ever grow, so that no lock is needed.
    let (drains, [first, other]) =
        unsafe { ((*locked).handover.phase == phase::DRAIN, (*locked).handover.last_ack) };
    let last = if entry.leg == 0 { first } else { other };
    if !drains || !before(u32::from_be(frame.header.ack), last) {
        return;
    }
    let ack = last.to_be();
    let transport = frame.transport();
    if store(ctx, transport + 8, &ack, 0)
        && mend_sum(ctx, transport, Difference::NONE.word(frame.header.ack, ack), Difference::NONE)
    {
        count(Counter::Refreshed, 1);
    }
}
