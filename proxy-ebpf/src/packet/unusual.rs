//! Packets of our flows that do not look like all others: they are made so, before anything else has to know of it.

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_probe_read_kernel, bpf_skb_adjust_room, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use core::ptr::null_mut;
use proxy_common::abi::packet::Counter;
use proxy_common::packet::sum::Sum;

use crate::frame::{Frame, IPV4_SIZE, NETWORK, size_of_32, skb, store, untag};
use crate::others::TCP;
use crate::{DROP, count};

/// Set by the daemon before it loads the program, from the BTF of the running kernel.
#[unsafe(no_mangle)]
static SKB_HEAD_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_END_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GSO_TYPE_OFFSET: Global<u32> = Global::new(0);

/// `SKB_GSO_FRAGLIST` (`include/linux/skbuff.h`): many packets, each with headers of its own.
const LIST: u32 = 1 << 18;

/// No verdict: the packet is as all others now.
pub(crate) const MENDED: i32 = -2;

/// Whether something of it is not as usual.
#[inline(always)]
pub(crate) fn is(ctx: &TcContext, frame: &Frame) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    let (tagged, segment) = unsafe { ((*skb(ctx)).vlan_present, (*skb(ctx)).gso_size) };
    tagged != 0 || segment != 0 || frame.network != frame.least_network() || frame.is_fragment
}

/// Makes it as usual. The verdict, or [`MENDED`].
#[inline(never)]
pub(crate) fn mend(ctx: &TcContext, frame: &mut Frame) -> i32 {
    // Without its first fragment nobody ever has the packet: the host would answer it with a reset, or give it to a socket that is
    // about to be closed. Its sender sends it again.
    if frame.is_fragment || !untag(ctx) || !join(ctx) || !strip(ctx, frame) {
        count(Counter::Untranslatable, 1);
        return DROP;
    }
    MENDED
}

/// Where the kernel has joined packets to a list of packets (`rx-gro-list`, Linux 6.10): makes it one packet, which is divided again as
/// any other.
#[inline(always)]
fn join(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { (*skb(ctx)).gso_size == 0 || !is_list(ctx) || bpf_skb_pull_data(skb(ctx), (*skb(ctx)).len) == 0 }
}

#[inline(always)]
fn is_list(ctx: &TcContext) -> bool {
    let packet = skb(ctx).cast::<u8>().cast_const();
    read::<u64>(packet, SKB_HEAD_OFFSET.load())
        .zip(read::<u32>(packet, SKB_END_OFFSET.load()))
        .and_then(|(head, end)| {
            let shared = head.wrapping_add(u64::from(end)) as *const u8;
            read::<u32>(shared, GSO_TYPE_OFFSET.load())
        })
        .is_some_and(|kind| kind & LIST != 0)
}

#[inline(always)]
fn read<T>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; the offset is that of a field of this size, of which all bits are valid.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

/// Takes away options of IP and extension headers, which are for the way to this host: a server gets none by its sockets either. Those
/// of packets that are longer than IPv6 can say otherwise stay, as when the host forwards them: the kernel takes them away when it
/// divides the packet.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a header of some hundred bytes"
)]
fn strip(ctx: &TcContext, frame: &mut Frame) -> bool {
    let least = frame.least_network();
    let more = frame.network.wrapping_sub(least);
    if more == 0 || frame.is_jumbo {
        return true;
    }
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    // SAFETY: the context is the one that the kernel called this program with.
    if unsafe { bpf_skb_adjust_room(skb(ctx), -(more as i32), BPF_ADJ_ROOM_NET, flags) } != 0 {
        return false;
    }
    frame.network = least;
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    let length = least + frame.header.size() + frame.payload;
    if !frame.is_ipv4 {
        let length = (length - least) as u16;
        return store(ctx, NETWORK + 4, &length.to_be(), recompute)
            && store(ctx, NETWORK + 6, &TCP, recompute);
    }
    let mut ipv4 = frame.ipv4;
    ipv4.version_size = 0x45;
    ipv4.length = (length as u16).to_be();
    ipv4.sum = 0;
    // SAFETY: `ipv4` is ours; its 20 bytes are read.
    let sum = unsafe {
        bpf_csum_diff(null_mut(), 0, (&raw mut ipv4).cast(), size_of_32::<crate::frame::Ipv4>(), 0)
    };
    ipv4.sum = Sum::default().word(sum as u32).checksum();
    frame.ipv4 = ipv4;
    const { assert!(size_of_32::<crate::frame::Ipv4>() == IPV4_SIZE) };
    store(ctx, NETWORK, &ipv4, recompute)
}
