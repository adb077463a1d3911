//! Frames of Ethernet: what is in them, and how to change it.
//!
//! Bytes are read and written by the kernel's helpers, wherever in the kernel's buffers they are.

use aya_ebpf::bindings::{__sk_buff, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_skb_vlan_pop};
use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::{Address, Key, MAPPED};
use proxy_common::packet::header::Header;
use proxy_common::packet::sum::Difference;

/// `ETH_P_IP` and `ETH_P_IPV6` as `__sk_buff` has them.
pub(crate) const IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(crate) const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Where the IP header begins.
pub(crate) const NETWORK: u32 = 14;
/// Bytes of an IPv4 header without options, and of an IPv6 header.
pub(crate) const IPV4_SIZE: u32 = 20;
pub(crate) const IPV6_SIZE: u32 = 40;

const TCP: u8 = 6;
/// Bytes of a TCP header without options.
pub(crate) const TCP_SIZE: u32 = 20;
/// Where its checksum is.
const TCP_SUM: u32 = 16;

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Ipv4 {
    pub(crate) version_size: u8,
    pub(crate) service: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    pub(crate) sum: u16,
    pub(crate) source: u32,
    pub(crate) target: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_flow: u32,
    pub(crate) length: u16,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    pub(crate) source: Address,
    pub(crate) target: Address,
}

/// What TCP begins with.
#[derive(Default)]
#[repr(C)]
struct Packet<N> {
    network: N,
    transport: Header,
}

/// A TCP segment.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) key: Key,
    pub(crate) header: Header,
    /// Bytes of payload.
    pub(crate) payload: u32,
    /// IPv4 only.
    pub(crate) ipv4: Ipv4,
    /// Bytes of the IP header, with its options or the extension header behind it.
    pub(crate) network: u32,
    pub(crate) hops: u8,
    pub(crate) is_ipv4: bool,
    /// The first fragment of a packet.
    pub(crate) is_fragment: bool,
    /// Longer than IPv6 has room to say: the kernel has put an extension header in that does.
    pub(crate) is_jumbo: bool,
}

impl Frame {
    /// Where the TCP header begins.
    #[inline(always)]
    pub(crate) fn transport(&self) -> u32 {
        NETWORK + self.network
    }

    /// Bytes of an IP header that has nothing but what it must have.
    #[inline(always)]
    pub(crate) fn least_network(&self) -> u32 {
        if self.is_ipv4 { IPV4_SIZE } else { IPV6_SIZE }
    }
}

/// Sizes as helpers want them.
#[expect(clippy::cast_possible_truncation, reason = "evaluated for small types only")]
pub(crate) const fn size_of_32<T>() -> u32 {
    size_of::<T>() as u32
}

pub(crate) fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// `T` must be made of integers, without padding.
#[inline(always)]
pub(crate) fn load<T>(ctx: &TcContext, offset: u32, to: &mut T) -> bool {
    // SAFETY: the context is the one that the kernel called this program with, and `to` is ours to be written.
    let result = unsafe {
        bpf_skb_load_bytes(skb(ctx).cast(), offset, core::ptr::from_mut(to).cast(), size_of_32::<T>())
    };
    result == 0
}

/// The same in the other direction.
#[inline(always)]
pub(crate) fn store<T>(ctx: &TcContext, offset: u32, from: &T, flags: u64) -> bool {
    // SAFETY: as above; `from` is only read.
    let result = unsafe {
        bpf_skb_store_bytes(skb(ctx), offset, core::ptr::from_ref(from).cast(), size_of_32::<T>(), flags)
    };
    result == 0
}

/// Reads a TCP segment that may be one of ours. False: anything else, and also later fragments. (Of an `Option` the compiler leaves undefined what is not there, and may move that about, which the verifier
/// does not allow.)
#[inline(never)]
pub(crate) fn read(ctx: &TcContext, frame: &mut Frame) -> bool {
    if is_of_vlan(ctx) {
        return false;
    }
    // SAFETY: the context is the one that the kernel called this program with.
    let (protocol, length) = unsafe {
        let skb = skb(ctx);
        ((*skb).protocol, (*skb).len)
    };
    if protocol == IPV4 {
        read_ipv4(ctx, length, frame)
    } else if protocol == IPV6 {
        read_ipv6(ctx, length, frame)
    } else {
        false
    }
}

/// Whether the frame is one of a VLAN: the interface of the VLAN, where the tag is off, is the one that our sockets know. A tag with the
/// number 0 says no more than how urgent the frame is (IEEE 802.1p), and the kernel takes it off behind this program.
#[inline(always)]
pub(crate) fn is_of_vlan(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    let (tagged, tag) = unsafe {
        let skb = skb(ctx);
        ((*skb).vlan_present, (*skb).vlan_tci)
    };
    tagged != 0 && tag & 0xfff != 0
}

/// Takes off a tag that says no more than how urgent the frame is: it is for the way to this host.
#[inline(always)]
pub(crate) fn untag(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { (*skb(ctx)).vlan_present == 0 || bpf_skb_vlan_pop(skb(ctx)) == 0 }
}

/// "More fragments", and the place of this one.
const MORE: u16 = 0x2000;
const PLACE: u16 = 0x1fff;

#[inline(always)]
fn read_ipv4(ctx: &TcContext, length: u32, frame: &mut Frame) -> bool {
    let mut packet = Packet::<Ipv4>::default();
    if !load(ctx, NETWORK, &mut packet) {
        return false;
    }
    let Packet { network: ipv4, transport: mut header } = packet;
    let network = u32::from(ipv4.version_size & 15) << 2;
    let fragment = u16::from_be(ipv4.fragment);
    if ipv4.version_size >> 4 != 4 || network < IPV4_SIZE || ipv4.protocol != TCP || fragment & PLACE != 0 {
        return false;
    }
    if network != IPV4_SIZE && !load(ctx, NETWORK + network, &mut header) {
        return false;
    }
    let [a, b, c] = MAPPED;
    let [source_port, target_port] = header.ports;
    let (source, target) = ([a, b, c, ipv4.source], [a, b, c, ipv4.target]);
    let key = Key { source, target, source_port, target_port, padding: 0 };
    // 0: larger than the field has room for.
    let total = match u32::from(u16::from_be(ipv4.length)) {
        0 => length.wrapping_sub(NETWORK),
        total => total,
    };
    let headers = network + header.size();
    *frame = Frame {
        key,
        header,
        payload: total.wrapping_sub(headers),
        ipv4,
        network,
        hops: ipv4.hops,
        is_ipv4: true,
        is_fragment: fragment & MORE != 0,
        is_jumbo: false,
    };
    header.size() >= TCP_SIZE && total >= headers && total <= length.wrapping_sub(NETWORK)
}

/// Extension headers of IPv6 that may stand before TCP: options for each hop, a fragment, options for the end.
const EACH_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const AT_THE_END: u8 = 60;

/// An option that says how long the packet is.
const JUMBO: u8 = 0xc2;

/// What an extension header begins with.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Extension {
    next: u8,
    /// In steps of 8 bytes, this one not counted.
    length: u8,
    /// Of a fragment: where it belongs, and whether more follow. Else the first option.
    kind: u8,
    size: u8,
    rest: u32,
}

#[inline(always)]
fn read_ipv6(ctx: &TcContext, length: u32, frame: &mut Frame) -> bool {
    let mut packet = Packet::<Ipv6>::default();
    if !load(ctx, NETWORK, &mut packet) {
        return false;
    }
    let Packet { network: ipv6, transport: mut header } = packet;
    // An address that stands for one of IPv4 is in no packet of IPv6, and would be taken for that.
    if is_mapped(&ipv6.source) || is_mapped(&ipv6.target) {
        return false;
    }
    let (mut network, mut is_fragment, mut is_jumbo) = (IPV6_SIZE, false, false);
    if ipv6.protocol != TCP {
        if !matches!(ipv6.protocol, EACH_HOP | FRAGMENT | AT_THE_END) {
            return false;
        }
        let mut extension = Extension::default();
        if !load(ctx, NETWORK + IPV6_SIZE, &mut extension) || extension.next != TCP {
            return false;
        }
        if ipv6.protocol == FRAGMENT {
            let place = u16::from_be_bytes([extension.kind, extension.size]);
            if place & !7 != 0 {
                return false;
            }
            is_fragment = place & 1 != 0;
            network += 8;
        } else {
            is_jumbo = ipv6.protocol == EACH_HOP && extension.kind == JUMBO;
            network += (u32::from(extension.length) + 1) << 3;
        }
        if !load(ctx, NETWORK + network, &mut header) {
            return false;
        }
    }
    let [source_port, target_port] = header.ports;
    let key = Key { source: ipv6.source, target: ipv6.target, source_port, target_port, padding: 0 };
    let total = match u32::from(u16::from_be(ipv6.length)) {
        0 => length.wrapping_sub(NETWORK),
        total => total + IPV6_SIZE,
    };
    let headers = network + header.size();
    *frame = Frame {
        key,
        header,
        payload: total.wrapping_sub(headers),
        ipv4: Ipv4::default(),
        network,
        hops: ipv6.hops,
        is_ipv4: false,
        is_fragment,
        is_jumbo,
    };
    header.size() >= TCP_SIZE && total >= headers && total <= length.wrapping_sub(NETWORK)
}

#[inline(always)]
fn is_mapped([a, b, c, _]: &Address) -> bool {
    [*a, *b, *c] == MAPPED
}

/// What changes of a packet that goes on to another host.
pub(crate) struct Onward {
    pub(crate) source: Address,
    pub(crate) target: Address,
}

/// Writes the IP header, and says what that makes to the sum of the pseudo header. None: the packet's way was too long, or
/// it cannot be written to.
#[inline(always)]
pub(crate) fn write_network(ctx: &TcContext, frame: &Frame, onward: &Onward) -> Option<Difference> {
    let key = &frame.key;
    if frame.is_ipv4 {
        let mut ipv4 = frame.ipv4;
        (ipv4.source, ipv4.target) = (onward.source[3], onward.target[3]);
        let addresses =
            Difference::NONE.word(frame.ipv4.source, ipv4.source).word(frame.ipv4.target, ipv4.target);
        ipv4.hops = frame.hops.wrapping_sub(1);
        let old = u16::from_ne_bytes([frame.hops, ipv4.protocol]);
        let new = u16::from_ne_bytes([ipv4.hops, ipv4.protocol]);
        ipv4.sum = addresses.half(old, new).apply(ipv4.sum);
        return store(ctx, NETWORK, &ipv4, 0).then_some(addresses);
    }
    let hops = frame.hops.wrapping_sub(1);
    let addresses = [onward.source, onward.target];
    if !store(ctx, NETWORK + 7, &hops, 0) || !store(ctx, NETWORK + 8, &addresses, 0) {
        return None;
    }
    Some(words(&key.target, &onward.target, words(&key.source, &onward.source, Difference::NONE)))
}

#[inline(always)]
pub(crate) fn words(old: &Address, new: &Address, difference: Difference) -> Difference {
    let ([a, b, c, d], [e, f, g, h]) = (*old, *new);
    difference.word(a, e).word(b, f).word(c, g).word(d, h)
}

/// Brings the checksum of a TCP header up to date, also where the network card is to compute it.
#[inline(always)]
pub(crate) fn mend_sum(ctx: &TcContext, transport: u32, own: Difference, pseudo: Difference) -> bool {
    let at = transport + TCP_SUM;
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe {
        bpf_l4_csum_replace(skb(ctx), at, 0, own.raw().into(), 0) == 0
            && (pseudo == Difference::NONE
                || bpf_l4_csum_replace(skb(ctx), at, 0, pseudo.raw().into(), u64::from(BPF_F_PSEUDO_HDR))
                    == 0)
    }
}
