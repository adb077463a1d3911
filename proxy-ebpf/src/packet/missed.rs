//! Packets of our flows that have come past the program for what comes in: somebody else's program before it has kept them, or they came
//! where the program is not yet. The stack knows no such connection and answers with a reset, which is not let out: what was missed
//! comes again, and the daemon sees to it that it then comes to the program.

use aya_ebpf::programs::TcContext;
use proxy_common::abi::packet::state;
use proxy_common::packet::header::tcp;

use crate::FLOWS;
use crate::frame::{Frame, skb};

/// Whether this host's stack resets a flow of which it knows nothing. What acknowledges something (as all packets of flows do) it answers with
/// a reset that does not (RFC 9293, 3.10.7.1); resets of sockets, which have numbers of before, do. What is sent on comes from an interface,
/// and what the daemon itself sends it sends to flows that have ended.
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
