//! Packets that are too large for the interface that they have to go out by: "too big" is sent to their sender (RFC 1191, RFC
//! 8201), as a router does, with the packet as the sender knows it.
//!
//! The packet itself becomes the message: it is cut behind its TCP header, and gets new headers in front.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_csum_diff, bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail,
};
use aya_ebpf::programs::TcContext;
use core::ptr::null_mut;
use proxy_common::abi::packet::{Counter, Entry};
use proxy_common::packet::header::Header;
use proxy_common::packet::sum::Sum;

use crate::frame::{
    Frame, IPV4_SIZE, IPV6_SIZE, Ipv4, Ipv6, NETWORK, TCP_SIZE, load, size_of_32, skb, store,
};
use crate::others::TCP;
use crate::quoted::{ICMP, ICMP_V6, Icmp};
use crate::{DROP, FLOWS, count};

/// No verdict: the packet may go on.
pub(crate) const FITS: i32 = -2;

/// What every link takes: up to this nobody has to ask.
const SMALL: u32 = 576;

/// `IP_DF`, and hops that are enough for any way.
const WHOLE: u16 = 0x4000_u16.to_be();
const HOPS: u8 = 64;

#[derive(Default)]
#[repr(C)]
struct TooBig4 {
    outer: Ipv4,
    icmp: Icmp,
    inner: Ipv4,
    start: Header,
}

#[derive(Default)]
#[repr(C)]
struct TooBig6 {
    outer: Ipv6,
    icmp: Icmp,
    inner: Ipv6,
    start: Header,
}

/// What stands in front of the quoted packet.
const FRONT4: u32 = IPV4_SIZE + size_of_32::<Icmp>();
const FRONT6: u32 = IPV6_SIZE + size_of_32::<Icmp>();

/// Bytes of the largest packet, from its IP header on, that this one is when it is on the wire: it may be many segments in one.
#[inline(always)]
fn size(ctx: &TcContext, frame: &Frame) -> u32 {
    // SAFETY: the context is the one that the kernel called this program with.
    let (length, segment) = unsafe { ((*skb(ctx)).len, (*skb(ctx)).gso_size) };
    if segment == 0 { length - NETWORK } else { frame.least_network() + frame.header.size() + segment }
}

/// Whether it may be too large for some interface.
#[inline(always)]
pub(crate) fn is_large(ctx: &TcContext, frame: &Frame) -> bool {
    size(ctx, frame) > SMALL
}

/// Sends the packet back to its sender if it does not fit: the verdict then, else [`FITS`].
#[inline(never)]
pub(crate) fn turn_back(ctx: &TcContext, frame: &Frame, entry: &Entry) -> i32 {
    if entry.device == 0 {
        return FITS;
    }
    let mut most = 0_u32;
    // SAFETY: the context is the one that the kernel called this program with, and the number is ours.
    let asked = unsafe { bpf_check_mtu(skb(ctx).cast(), entry.device, &raw mut most, 0, 0) };
    if asked < 0 {
        // There is no such interface.
        count(Counter::NoRoute, 1);
        return DROP;
    }
    if size(ctx, frame) <= most {
        return FITS;
    }
    // SAFETY: the program reads a whole word of an element of a map.
    let back = unsafe { FLOWS.get(entry.other()) }.map_or(0, |other| other.device);
    let written = if frame.is_ipv4 { write4(ctx, frame, most) } else { write6(ctx, frame, most) };
    if !written || back == 0 {
        return DROP;
    }
    count(Counter::TooBig, 1);
    // SAFETY: needs nothing.
    let verdict = unsafe { bpf_redirect_neigh(back, null_mut(), 0, 0) };
    i32::try_from(verdict).unwrap_or(DROP)
}

/// Cuts the packet behind its TCP header without options, and makes room in front of its IP header.
#[inline(always)]
fn reshape(skb: *mut __sk_buff, end: u32, front: u32) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { bpf_skb_change_tail(skb, end, 0) == 0 && bpf_skb_change_head(skb, front, 0) == 0 }
}

/// The sum of the words of `T`, which must be made of integers, without padding.
#[inline(always)]
fn sum<T>(of: &mut T) -> Sum {
    // SAFETY: `of` is ours, and is read only.
    let sum = unsafe { bpf_csum_diff(null_mut(), 0, core::ptr::from_mut(of).cast(), size_of_32::<T>(), 0) };
    Sum::default().word(u32::try_from(sum).unwrap_or(0))
}

/// The quoted TCP header. A network card may have been told to write its checksum: whether it does so or not, the same must be there,
/// since the message has a checksum of its own.
#[inline(always)]
fn quote(frame: &Frame) -> Header {
    let mut start = frame.header;
    start.sum = 0;
    start.sum = sum(&mut start).lasting();
    start
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the size of the message, and a size that IPv4 has room for"
)]
fn write4(ctx: &TcContext, frame: &Frame, most: u32) -> bool {
    let [high, low] = (most.min(u32::from(u16::MAX)) as u16).to_be_bytes();
    let icmp = Icmp { kind: 3, code: 4, sum: 0, rest: u32::from_ne_bytes([0, 0, high, low]) };
    let outer = Ipv4 {
        version_size: 0x45,
        length: (size_of_32::<TooBig4>() as u16).to_be(),
        fragment: WHOLE,
        hops: HOPS,
        protocol: ICMP,
        source: frame.ipv4.target,
        target: frame.ipv4.source,
        ..Ipv4::default()
    };
    let mut message = TooBig4 { outer, icmp, inner: frame.ipv4, start: quote(frame) };
    message.outer.sum = sum(&mut message.outer).checksum();
    // The outer header with its checksum makes nothing to the sum.
    message.icmp.sum = sum(&mut message).checksum();
    reshape(skb(ctx), NETWORK + IPV4_SIZE + TCP_SIZE, FRONT4) && store(ctx, NETWORK, &message, 0)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of the message")]
fn write6(ctx: &TcContext, frame: &Frame, most: u32) -> bool {
    let mut inner = Ipv6::default();
    if !load(ctx, NETWORK, &mut inner) {
        return false;
    }
    if frame.is_jumbo {
        // As the network has seen it: many packets, without that header.
        (inner.protocol, inner.length) = (TCP, (most as u16).to_be());
    }
    let length = ((size_of_32::<TooBig6>() - IPV6_SIZE) as u16).to_be();
    let icmp = Icmp { kind: 2, code: 0, sum: 0, rest: most.to_be() };
    let (source, target) = (inner.target, inner.source);
    // As the pseudo header has it: length and protocol, and neither version nor hops.
    let outer = Ipv6 { version_class_flow: 0, length, protocol: 0, hops: ICMP_V6, source, target };
    let mut message = TooBig6 { outer, icmp, inner, start: quote(frame) };
    message.icmp.sum = sum(&mut message).checksum();
    message.outer.version_class_flow = 0x6000_0000_u32.to_be();
    (message.outer.protocol, message.outer.hops) = (ICMP_V6, HOPS);
    reshape(skb(ctx), NETWORK + IPV6_SIZE + TCP_SIZE, FRONT6) && store(ctx, NETWORK, &message, 0)
}
