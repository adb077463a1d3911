//! A bad network, for tests: loses, doubles and reorders what comes in by an interface. Resets arrive as they were sent: TCP
//! sends them once, so that one that is lost says nothing about a proxy. So do the first segments of connections: a client
//! that goes before its server was reached is another case.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_get_prandom_u32, bpf_redirect, bpf_skb_vlan_push};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;

/// How many packets of a million are lost, doubled, and made to wait.
#[unsafe(no_mangle)]
static LOST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DOUBLED: Global<u32> = Global::new(0);
/// Other than 0: what begins a connection or resets it is let through.
#[unsafe(no_mangle)]
static SPARING: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static LATE: Global<u32> = Global::new(0);

/// What was done: lost, doubled, made to wait.
#[map]
static DONE: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

const MILLION: u32 = 1_000_000;

/// The mark of a packet that was dealt with; its last byte says how often it goes to the end of the queue yet.
const MARK: u32 = 0x7777_0000;
const MARKED: u32 = 0xffff_0000;
const TURNS: u32 = 3;

/// On to the next program, or to the stack (`TC_ACT_UNSPEC`), and `TC_ACT_SHOT`.
const PASS: i32 = -1;
const DROP: i32 = 2;

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn impair(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe {
        let (mark, device) = ((*skb).mark, (*skb).ifindex);
        if mark & MARKED == MARK {
            let turns = mark & 0xff;
            if turns == 0 {
                (*skb).mark = 0;
                return PASS;
            }
            (*skb).mark = MARK | (turns - 1);
            return to_the_end(device);
        }
        if SPARING.load() != 0 && is_spared(&ctx) {
            return PASS;
        }
        let dice = bpf_get_prandom_u32() % MILLION;
        let (lost, doubled, late) = (LOST.load(), DOUBLED.load(), LATE.load());
        if dice < lost {
            count(0);
            return DROP;
        }
        if dice < lost + doubled {
            count(1);
            (*skb).mark = MARK;
            bpf_clone_redirect(skb, device, u64::from(BPF_F_INGRESS));
            (*skb).mark = mark;
            return PASS;
        }
        if dice < lost + doubled + late {
            count(2);
            (*skb).mark = MARK | (dice & TURNS);
            return to_the_end(device);
        }
    }
    PASS
}

/// Gives what goes out a tag without a VLAN, which says how urgent it is (IEEE 802.1p).
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn tag(ctx: TcContext) -> i32 {
    /// `ETH_P_8021Q`, as the helper wants it, and the tag of a frame that is urgent.
    const VLAN: u16 = 0x8100_u16.to_be();
    const URGENT: u16 = 5 << 13;
    // SAFETY: the context is the one that the kernel called this program with.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, VLAN, URGENT) };
    PASS
}

/// The latest time stamp that goes out: a clock that has stopped. One that ticks slowly stands for as long between two ticks.
#[unsafe(no_mangle)]
static STOPPED: Global<u32> = Global::new(u32::MAX);

/// Lets time stamps of TCP segments by IPv4, with no other options, not go on.
#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the macro calls it with the context by value")]
fn stop(ctx: TcContext) -> i32 {
    const TRANSPORT: usize = 14 + 20;
    const SUM: usize = TRANSPORT + 16;
    const OPTIONS: usize = TRANSPORT + 20;
    /// Two bytes of padding, and the head of a time stamp.
    const STAMP: u32 = 0x0101_080a;
    let (Ok(6), Ok(STAMP_BYTES)) = (ctx.load::<u8>(14 + 9), ctx.load::<u32>(OPTIONS)) else { return PASS };
    let Ok(old) = ctx.load::<u32>(OPTIONS + 4) else { return PASS };
    let new = STOPPED.load();
    const STAMP_BYTES: u32 = STAMP.to_be();
    if u32::from_be(old).wrapping_sub(new).cast_signed() > 0 {
        let new = new.to_be();
        let _ = ctx.l4_csum_replace(SUM, old.into(), new.into(), 4);
        let _ = ctx.store(OPTIONS + 4, &new, 0);
    }
    PASS
}

/// Whether it is a TCP segment, by IPv4 without options, that begins its connection or resets it.
#[inline(always)]
fn is_spared(ctx: &TcContext) -> bool {
    let (protocol, flags) = (ctx.load::<u8>(14 + 9), ctx.load::<u8>(14 + 20 + 13));
    matches!((protocol, flags), (Ok(6), Ok(flags)) if flags & 6 != 0)
}

/// The packet comes in again, behind those that wait.
#[inline(always)]
fn to_the_end(device: u32) -> i32 {
    // SAFETY: needs nothing.
    let verdict = unsafe { bpf_redirect(device, u64::from(BPF_F_INGRESS)) };
    i32::try_from(verdict).unwrap_or(DROP)
}

#[inline(always)]
fn count(what: u32) {
    if let Some(value) = DONE.get_ptr_mut(what) {
        // SAFETY: the slot belongs to this CPU; softirqs do not nest on it.
        unsafe { *value += 1 };
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
