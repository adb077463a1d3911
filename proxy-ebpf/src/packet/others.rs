//! Packets of others: most of what comes in and goes out, and what we take least time for.

use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::port_place;
use proxy_common::packet::header::tcp;

use crate::PORTS;
use crate::frame::{IPV4, IPV4_SIZE, IPV6, IPV6_SIZE, NETWORK, skb};

pub(crate) const TCP: u8 = 6;

/// Where the headers have the protocol.
pub(crate) const PROTOCOL_V4: usize = 9;
pub(crate) const PROTOCOL_V6: usize = 6;
/// Where the TCP header has the ports and the flags.
const SOURCE: usize = 0;
pub(crate) const TARGET: usize = 2;
const FLAGS: usize = 13;

/// What an IPv4 header without options begins with.
pub(crate) const IPV4_START: u8 = 0x45;

/// What an IPv6 header says of an extension header with options for each hop. (IPv4 has no such protocol.)
const JUMBO: u8 = 0;

/// Whether this is no IP at all, or a segment to a port that no flow of ours has. False: it may be ours, or has to be looked at more closely.
#[inline(always)]
pub(crate) fn is_of_others(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    let protocol = unsafe { (*skb(ctx)).protocol };
    if protocol == IPV4 {
        // With options the port is elsewhere.
        peek::<u8>(ctx, NETWORK as usize) == Some(IPV4_START) && is_to_others(ctx, PROTOCOL_V4, IPV4_SIZE)
    } else if protocol == IPV6 {
        is_to_others(ctx, PROTOCOL_V6, IPV6_SIZE)
    } else {
        true
    }
}

/// The same of a packet that a socket of this host sends, which is also ours if it begins a connection: that has no flow yet.
#[inline(always)]
pub(crate) fn is_by_others(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    let protocol = unsafe { (*skb(ctx)).protocol };
    if protocol == IPV4 {
        is_sent_by_others(ctx, PROTOCOL_V4, IPV4_SIZE)
    } else if protocol == IPV6 {
        is_sent_by_others(ctx, PROTOCOL_V6, IPV6_SIZE)
    } else {
        true
    }
}

/// Whether this may reset a connection: one byte is looked at, which of a packet that is not TCP may be anything.
#[inline(always)]
pub(crate) fn may_be_reset(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    let network = if unsafe { (*skb(ctx)).protocol } == IPV4 { IPV4_SIZE } else { IPV6_SIZE };
    peek::<u8>(ctx, (NETWORK + network) as usize + FLAGS).is_some_and(|flags| flags & tcp::RST != 0)
}

#[inline(always)]
fn is_to_others(ctx: &TcContext, protocol: usize, network: u32) -> bool {
    let transport = (NETWORK + network) as usize;
    let (Some(protocol), Some(port)) =
        (peek::<u8>(ctx, NETWORK as usize + protocol), peek::<u16>(ctx, transport + TARGET))
    else {
        return false;
    };
    protocol == TCP && is_no_flow_s(port)
}

#[inline(always)]
fn is_sent_by_others(ctx: &TcContext, protocol: usize, network: u32) -> bool {
    let transport = (NETWORK + network) as usize;
    let start = ctx.data();
    // One comparison for all three: of several the compiler makes what the verifier does not follow.
    if start + transport + FLAGS + 1 > ctx.data_end() {
        return false;
    }
    // SAFETY: all of it is in the packet, by the comparison above. Addresses in packets need no alignment.
    let (protocol, port, flags) = unsafe {
        (
            *((start + NETWORK as usize + protocol) as *const u8),
            *((start + transport + SOURCE) as *const u16),
            *((start + transport + FLAGS) as *const u8),
        )
    };
    if protocol == JUMBO {
        // Longer than IPv6 has room to say: an extension header stands before TCP.
        return false;
    }
    protocol != TCP || (flags & tcp::SYN == 0 && is_no_flow_s(port))
}

/// Whether no flow of ours has this port of this host, as packets have it.
#[inline(always)]
pub(crate) fn is_no_flow_s(port: u16) -> bool {
    let (word, bit) = port_place(u16::from_be(port));
    // SAFETY: an element of a map, and a whole word.
    PORTS.get(word).is_some_and(|word| unsafe { core::ptr::from_ref(word).read_volatile() } & bit == 0)
}

/// What is at this place, where it is in the first piece of the packet: faster than a helper.
#[inline(always)]
pub(crate) fn peek<T: Copy>(ctx: &TcContext, at: usize) -> Option<T> {
    let start = ctx.data() + at;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: all of it is in the packet, by the comparison above, and T is a number. Addresses in packets need no alignment.
    Some(unsafe { *(start as *const T) })
}
