//! Packets that come without their Ethernet header in front.
//!
//! Behind an XDP program in generic mode, whosever it is, the kernel copies a packet and forgets how long its Ethernet header was (`mac_len`, Linux 6.12
//! and later, `skb_pp_cow_data` in `net/core/skbuff.c`). Programs at tc are then shown the packet from its IP header on. Those of ours get the
//! header back first, so that nothing else has to know.

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_MAC;
use aya_ebpf::helpers::{bpf_skb_change_head, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::TcContext;

use crate::frame::{IPV4, IPV4_SIZE, IPV6, IPV6_SIZE, NETWORK, load, skb, store};
use crate::others::{IPV4_START, PROTOCOL_V4, PROTOCOL_V6, TARGET, TCP, is_no_flow_s, peek};
use crate::{DROP, PASS};

/// Where an Ethernet header has the protocol.
const PROTOCOL: usize = 12;

/// No verdict: the packet has its header, and may be ours.
pub(crate) const GO_ON: i32 = -2;

/// Whether the packet begins with its Ethernet header. What an IPv4 header without options begins with is, as the first byte of an Ethernet
/// address, that of a group, and packets of ours are sent to no group. (Other bare ones have part of their source where the header has the
/// protocol: one of 65,536 networks has the same number there.)
#[inline(always)]
pub(crate) fn has_ethernet(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    let protocol = unsafe { (*skb(ctx)).protocol };
    if protocol == IPV4 && peek::<u16>(ctx, 0).is_none_or(|start| start.to_ne_bytes()[0] == IPV4_START) {
        return false;
    }
    peek::<u16>(ctx, PROTOCOL).is_some_and(|found| u32::from(found) == protocol)
}

/// Gives a packet of ours its header back. The verdict, or [`GO_ON`].
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "places in a header")]
pub(crate) fn enter(ctx: &TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called this program with.
    let protocol = unsafe { (*skb(ctx)).protocol };
    let (version, place, transport) = if protocol == IPV4 {
        (4, PROTOCOL_V4, IPV4_SIZE)
    } else if protocol == IPV6 {
        (6, PROTOCOL_V6, IPV6_SIZE)
    } else {
        return PASS;
    };
    let (mut first, mut kind, mut port) = (0_u8, 0_u8, 0_u16);
    if !load(ctx, 0, &mut first) || first >> 4 != version || !load(ctx, place as u32, &mut kind) {
        return PASS;
    }
    let is_usual = version == 6 || first == IPV4_START;
    if is_usual && kind == TCP && load(ctx, transport + TARGET as u32, &mut port) && is_no_flow_s(port) {
        return PASS;
    }
    // Of a connection of ours its sender sends it again; the host would answer it with a reset.
    if put_header(ctx) { GO_ON } else { DROP }
}

#[inline(always)]
fn put_header(ctx: &TcContext) -> bool {
    let mut header = [0_u16; NETWORK as usize / 2];
    // SAFETY: the context is the one that the kernel called this program with, and the helper writes no more than all of `header`.
    let is_read = unsafe {
        bpf_skb_load_bytes_relative(
            skb(ctx).cast(),
            0,
            header.as_mut_ptr().cast(),
            NETWORK,
            BPF_HDR_START_MAC,
        )
    } == 0;
    // SAFETY: as above. This sets `mac_len`, too, by which the kernel takes the header off again behind this program.
    is_read && unsafe { bpf_skb_change_head(skb(ctx), NETWORK, 0) } == 0 && store(ctx, 0, &header, 0)
}
