//! Errors of the network (ICMP) about packets that were forwarded: they quote the packet as it left us, and come to
//! us. They are translated and sent on to the end that the packet came from, above all "too big".

use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::programs::TcContext;
use core::ptr::null_mut;
use proxy_common::abi::packet::{Address, Counter, Entry, Key, MAPPED, state};
use proxy_common::packet::sum::Difference;

use crate::frame::{IPV4, IPV6, Ipv4, Ipv6, NETWORK, is_of_vlan, load, skb, store, untag, words};
use crate::{DROP, FLOWS, PASS, count};

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP_V6: u8 = 58;
const TCP: u8 = 6;

/// Kind, code, checksum, and what the kind needs.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) sum: u16,
    pub(crate) rest: u32,
}

/// As much of a quoted TCP header as there is at least.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Start {
    ports: [u16; 2],
    seq: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Error4 {
    outer: Ipv4,
    icmp: Icmp,
    inner: Ipv4,
    start: Start,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Error6 {
    outer: Ipv6,
    icmp: Icmp,
    inner: Ipv6,
    start: Start,
}

/// Whatever is no TCP segment.
#[inline(never)]
pub(crate) fn translate(ctx: &TcContext) -> i32 {
    if is_of_vlan(ctx) {
        return PASS;
    }
    // SAFETY: the context is the one that the kernel called this program with.
    let protocol = unsafe { (*skb(ctx)).protocol };
    if protocol == IPV4 {
        translate4(ctx)
    } else if protocol == IPV6 {
        translate6(ctx)
    } else {
        PASS
    }
}

/// The entry of packets that come in from where the quoted packet was sent to.
#[inline(always)]
fn find(source: Address, target: Address, start: &Start) -> Option<&'static Entry> {
    let [source_port, target_port] = start.ports;
    let sent = Key { source, target, source_port, target_port, padding: 0 };
    // SAFETY: the program reads whole words of an element of a map: see `Entry`, "Who writes what".
    unsafe { FLOWS.get(sent.reversed()) }.filter(|entry| entry.state == state::FORWARD)
}

/// Quotes what the end that the packet came from has sent.
#[inline(always)]
fn requote(start: &mut Start, entry: &Entry) -> Difference {
    let old = *start;
    start.ports = [entry.target_port, entry.source_port];
    start.seq = u32::from_be(old.seq).wrapping_add(entry.ack).to_be();
    let ([source, target], [old_source, old_target]) = (start.ports, old.ports);
    Difference::NONE.half(old_source, source).half(old_target, target).word(old.seq, start.seq)
}

#[inline(always)]
fn send(ctx: &TcContext, entry: &Entry) -> i32 {
    if entry.device == 0 {
        count(Counter::NoRoute, 1);
        return DROP;
    }
    if !untag(ctx) {
        return DROP;
    }
    count(Counter::Errors, 1);
    // SAFETY: needs nothing.
    let verdict = unsafe { bpf_redirect_neigh(entry.device, null_mut(), 0, 0) };
    i32::try_from(verdict).unwrap_or(DROP)
}

#[inline(always)]
fn translate4(ctx: &TcContext) -> i32 {
    let mut head = Ipv4::default();
    if !load(ctx, NETWORK, &mut head) || head.protocol != ICMP || head.version_size != 0x45 {
        return PASS;
    }
    let mut error = Error4::default();
    // 3: not reachable, which "too big" is one of; 11: on its way for too long.
    if !load(ctx, NETWORK, &mut error) || (error.icmp.kind != 3 && error.icmp.kind != 11) {
        return PASS;
    }
    if error.inner.protocol != TCP || error.inner.version_size != 0x45 {
        return PASS;
    }
    let [a, b, c] = MAPPED;
    let (source, target) = ([a, b, c, error.inner.source], [a, b, c, error.inner.target]);
    let Some(entry) = find(source, target, &error.start) else { return PASS };
    let inner = error.inner;
    (error.inner.source, error.inner.target) = (entry.target[3], entry.source[3]);
    let addresses =
        Difference::NONE.word(inner.source, error.inner.source).word(inner.target, error.inner.target);
    error.inner.sum = addresses.apply(inner.sum);
    let difference = requote(&mut error.start, entry).and(addresses).half(inner.sum, error.inner.sum);
    error.icmp.sum = difference.apply(error.icmp.sum);
    let outer = error.outer;
    error.outer.target = entry.target[3];
    error.outer.sum = Difference::NONE.word(outer.target, error.outer.target).apply(outer.sum);
    if !store(ctx, NETWORK, &error, 0) {
        return DROP;
    }
    send(ctx, entry)
}

#[inline(always)]
fn translate6(ctx: &TcContext) -> i32 {
    let mut head = Ipv6::default();
    if !load(ctx, NETWORK, &mut head) || head.protocol != ICMP_V6 {
        return PASS;
    }
    let mut error = Error6::default();
    // 1: not reachable; 2: too big; 3: on its way for too long.
    if !load(ctx, NETWORK, &mut error) || !(1..=3).contains(&error.icmp.kind) || error.inner.protocol != TCP {
        return PASS;
    }
    let Some(entry) = find(error.inner.source, error.inner.target, &error.start) else { return PASS };
    let (inner, outer) = (error.inner, error.outer);
    (error.inner.source, error.inner.target) = (entry.target, entry.source);
    error.outer.target = entry.target;
    let addresses =
        words(&inner.source, &entry.target, words(&inner.target, &entry.source, Difference::NONE));
    let outside = words(&outer.target, &entry.target, Difference::NONE);
    let difference = requote(&mut error.start, entry).and(addresses).and(outside);
    error.icmp.sum = difference.apply(error.icmp.sum);
    if !store(ctx, NETWORK, &error, 0) {
        return DROP;
    }
    send(ctx, entry)
}
