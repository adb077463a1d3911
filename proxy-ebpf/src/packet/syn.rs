//! The first packet of a connection to a server. Flows whose two connections have the same options can do without
//! sockets: so it does not offer what the client did not.

use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_loop};
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use proxy_common::abi::packet::offer;
use proxy_common::packet::header::tcp;
use proxy_common::packet::options::{Walk, withhold};
use proxy_common::packet::sum::Difference;

use crate::forward::{OPTIONS_MAX, load_options, store_changed, sum_words};
use crate::frame::{Frame, TCP_SIZE, mend_sum, skb};
use crate::{WALKS, WITHHELD};

struct Stroll {
    walk: *mut Walk,
    withheld: u32,
}

unsafe extern "C" fn stroll(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `rewrite` gives a `Stroll` that lives as long as the loop, with an element of a map that is this CPU's.
    unsafe {
        let stroll = &*context.cast::<Stroll>();
        let keep = [stroll.withheld & offer::STAMPS == 0, stroll.withheld & offer::SACK == 0];
        i64::from(!withhold(&mut *stroll.walk, keep))
    }
}

/// A packet that a socket sends.
#[inline(always)]
pub(crate) fn leaving(ctx: &TcContext, frame: &Frame) {
    if frame.header.flags & (tcp::SYN | tcp::ACK) != tcp::SYN {
        return;
    }
    // SAFETY: the context is the one that the kernel called this program with.
    let cookie = unsafe { bpf_get_socket_cookie(skb(ctx).cast()) };
    // SAFETY: one word, which is read.
    if let Some(withheld) = unsafe { WITHHELD.get(cookie) }.copied() {
        // Where it fails the offer is made, and the flow keeps its sockets.
        let _ = rewrite(ctx, frame, withheld);
    }
}

#[inline(always)]
fn rewrite(ctx: &TcContext, frame: &Frame, withheld: u32) -> Option<()> {
    let (transport, len) = (frame.transport(), frame.header.size().wrapping_sub(TCP_SIZE));
    let walk = WALKS.get_ptr_mut(0)?;
    load_options(ctx, transport + TCP_SIZE, len, walk)?;
    // SAFETY: an element of a map that is this CPU's: softirqs do not nest on it.
    let before = unsafe { sum_words(walk) };
    let mut stroll_ = Stroll { walk, withheld };
    // SAFETY: the callback gets what it expects, and runs before this returns.
    unsafe {
        bpf_loop(OPTIONS_MAX, (stroll as *const ()).cast_mut().cast(), (&raw mut stroll_).cast(), 0);
    }
    // SAFETY: as above.
    let after = unsafe { sum_words(walk) };
    let difference = store_changed(ctx, transport + TCP_SIZE, len, before, after)?;
    mend_sum(ctx, transport, difference, Difference::NONE).then_some(())
}
