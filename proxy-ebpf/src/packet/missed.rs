//! Packets of our flows that have come past the program for what comes in: somebody else's program before it has kept them, or they came
//! where the program is not yet. The stack knows no such connection and answers with a reset, which is not let out: what was missed
//! comes again, and the daemon sees to it that it then comes to the program.

use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::state;
use proxy_common::packet::header::tcp;

use crate::FLOWS;
use crate::frame::{Frame, skb};

/// Whether the packet is a reset by which the kernel answers a packet of an offloaded flow. Every packet of a flow has an acknowledgement, and
/// the kernel answers such a packet with a reset that has none (RFC 9293, 3.10.7.1). Resets of sockets have an acknowledgement. A forwarded
/// packet has come in by an interface. The daemon resets only flows that it has ended before.
#[inline(always)]
pub(crate) fn is_answer(ctx: &TcContext, frame: &Frame) -> bool {
    // SAFETY: the context is the one that the kernel called this program with.
    if frame.header.flags & (tcp::RST | tcp::ACK) != tcp::RST || unsafe { (*skb(ctx)).ingress_ifindex } != 0 {
        return false;
    }
    // SAFETY: the program reads one byte of an element of a map: see `Entry`, "Who writes what".
    let entry = unsafe { FLOWS.get(frame.key.reversed()) };
    entry.is_some_and(|entry| entry.state == state::FORWARD || entry.state == state::HELD)
}
