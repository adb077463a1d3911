//! The hand-over of a flow that is in use: its sockets finish what they have begun while all that is new goes past them.
//!
//! At the flip each socket is frozen at `received`, the next byte that it would receive. Together with what the daemon still holds,
//! that says where the other socket will end to send: `owed`. From then on every packet has one way: to the socket, where it
//! is about bytes before the flip, or to the other end, where it is about later ones, or both. When both ends
//! have acknowledged what was owed to them, nothing needs the sockets any more.

use super::header::{Segment, tcp};
use super::seq::{before, later, place};
use crate::abi::packet::{Answer, Entry, Handover, Socket, phase};

/// TCP states (`include/net/tcp_states.h`).
const ESTABLISHED: u32 = 1;

/// Time stamps of the other leg are ahead of our sockets' own by so many milliseconds, so that none that a draining socket
/// sends is later than one that was forwarded before it.
const MARGIN_MS: u32 = 50;

/// Where a packet goes during a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To our socket.
    Socket,
    /// To our socket, as a bare acknowledgement with the sequence number that the socket expects: in its own it is
    /// beyond the socket's window.
    SocketAtEdge,
    /// To the other end.
    Forward,
    /// To the other end, and our socket gets its acknowledgement.
    Both,
}

/// What is known of a leg's packet, and what comes of it. `trusted`: it may be that of its end; so may a reset, by its number
/// ([`super::seq_validation`]).
#[inline(always)]
pub const fn decide(handover: &mut Handover, second: bool, segment: &Segment, trusted: bool) -> Way {
    let leg = second as usize & 1;
    if handover.phase != phase::DRAIN {
        return watch(handover, leg, segment);
    }
    drain(handover, leg, segment, trusted)
}

/// An entry learns where its socket stands, at the flip: of the packets before, it did not.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "not above what it is compared with")]
pub const fn refresh(entry: &mut Entry, socket: &Socket) {
    let sent = place(entry.sent, entry.start, socket.rcv_nxt);
    if sent > entry.sent {
        entry.sent = sent;
    }
    entry.acked = later(entry.acked, socket.snd_una);
    let window = socket.snd_wnd >> (entry.scales()[0]);
    entry.window = if window > 0xffff { 0xffff } else { window as u16 };
}

/// Before the flip: all goes to the socket, and what the socket is to have by then is noted.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a leg is 0 or 1")]
const fn watch(handover: &mut Handover, leg: usize, segment: &Segment) -> Way {
    handover.seen[leg] = handover.seen[leg].wrapping_add(1);
    if segment.end != segment.seq {
        if handover.has_passed[leg] == 0 || before(handover.passed[leg], segment.end) {
            handover.passed[leg] = segment.end;
        }
        handover.has_passed[leg] = 1;
    }
    if segment.has(tcp::RST) {
        handover.reset[leg] = 1;
    }
    Way::Socket
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a leg is 0 or 1")]
const fn drain(handover: &mut Handover, leg: usize, segment: &Segment, trusted: bool) -> Way {
    let (received, owed) = (handover.received[leg], handover.owed[leg]);
    let acknowledges_all = trusted && segment.has(tcp::ACK) && !before(segment.ack, owed);
    if acknowledges_all {
        handover.drained[leg] = 1;
        // What the other end is told of this one's acknowledgement.
        let told = segment.ack.wrapping_sub(handover.delta[leg ^ 1]);
        handover.last_ack[leg ^ 1] = later(handover.last_ack[leg ^ 1], told);
    }
    if before(segment.seq, received) && !before(received, segment.end) {
        // Old: a retransmission, or a probe. The socket acknowledges it again.
        return Way::Socket;
    }
    if segment.has(tcp::RST | tcp::SYN) {
        if segment.has(tcp::RST)
            && (trusted || segment.seq == received || segment.seq == handover.last_ack[leg])
        {
            handover.reset[leg] = 1;
        }
        return Way::Forward;
    }
    if !trusted {
        // Our socket would take its acknowledgement for good. The other end looks at it itself.
        return Way::Forward;
    }
    if segment.end == segment.seq && !acknowledges_all {
        return if segment.seq == received { Way::Socket } else { Way::SocketAtEdge };
    }
    if handover.told[leg] != 0 {
        return Way::Forward;
    }
    if acknowledges_all {
        handover.told[leg] = 1;
    }
    Way::Both
}

/// Flips, unless something stands against it. `handover.sockets` were read before, after the flow was armed: that a segment is on
/// its way to its socket then shows here, or in the next reading.
#[inline(always)]
pub const fn flip(handover: &mut Handover) -> Answer {
    let [client, server] = handover.sockets;
    if handover.phase != phase::ARMED {
        return Answer::Flipped;
    }
    if client.state != ESTABLISHED || server.state != ESTABLISHED {
        return Answer::NotEstablished;
    }
    let [client_reset, server_reset] = handover.reset;
    if client_reset | server_reset != 0 {
        // If the socket takes it, that shows in its state the next time.
        handover.reset = [0; 2];
        return Answer::Between;
    }
    if client.out_of_order | server.out_of_order != 0 {
        return Answer::OutOfOrder;
    }
    let [client_seen, server_seen] = handover.seen;
    if client_seen == 0 || server_seen == 0 {
        return Answer::Unseen;
    }
    if !has_begun(&server, client.first().wrapping_add(handover.delta[0])) {
        return Answer::Unseen;
    }
    if is_between(handover, 0) || is_between(handover, 1) {
        return Answer::Between;
    }
    let [delta_up, delta_down] = handover.delta;
    let owed = [server.rcv_nxt.wrapping_add(delta_down), client.rcv_nxt.wrapping_add(delta_up)];
    if !fits(&client, owed[0]) || !fits(&server, owed[1]) {
        return Answer::Backlog;
    }
    handover.received = [client.rcv_nxt, server.rcv_nxt];
    handover.owed = owed;
    let drained = [!before(client.snd_una, owed[0]), !before(server.snd_una, owed[1])];
    handover.drained = [drained[0] as u32, drained[1] as u32];
    handover.told = handover.drained;
    handover.last_ack = handover.received;
    handover.stamp = [
        server.clock.wrapping_add(MARGIN_MS).wrapping_sub(client.ts_recent),
        client.clock.wrapping_add(MARGIN_MS).wrapping_sub(server.ts_recent),
    ];
    handover.phase = phase::DRAIN;
    Answer::Done
}

/// At the end: no time stamp that is forwarded from now on is earlier than those that sockets have sent while they drained, which its
/// receiver would drop (RFC 7323, 5.3). They are if an end's clock has not gone on for so long, since it ticks slowly. `stamped`: the latest
/// time stamps that have come in. `handover.sockets` were read just before.
#[inline(always)]
pub const fn catch_up(handover: &mut Handover, stamped: [u32; 2]) {
    let [client, server] = handover.sockets;
    let [from_client, from_server] = stamped;
    let [up, down] = handover.stamp;
    handover.stamp = [
        not_before(up, later(from_client, client.ts_recent), server.clock),
        not_before(down, later(from_server, server.ts_recent), client.clock),
    ];
}

/// A shift by which the latest stamp becomes one that is not before that which was sent.
#[inline(always)]
const fn not_before(shift: u32, latest: u32, sent: u32) -> u32 {
    if before(latest.wrapping_add(shift), sent) {
        sent.wrapping_add(MARGIN_MS).wrapping_sub(latest)
    } else {
        shift
    }
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "a leg is 0 or 1")]
const fn is_between(handover: &Handover, leg: usize) -> bool {
    handover.has_passed[leg] != 0 && before(handover.sockets[leg].rcv_nxt, handover.passed[leg])
}

/// Whether the server has sent a byte, or has acknowledged one. Before that it may still wait for the last segment of the handshake,
/// which was lost, and which nobody but our socket can repeat: flows that had left theirs stood still for ever (Linux 6.18).
#[inline(always)]
const fn has_begun(server: &Socket, first_sent: u32) -> bool {
    server.received() > 0 || before(first_sent, server.snd_una)
}

/// Whether what a socket still has to send fits into its peer's window: packets that are forwarded meanwhile must, too.
#[inline(always)]
const fn fits(socket: &Socket, owed: u32) -> bool {
    let backlog = owed.wrapping_sub(socket.snd_una);
    before(owed, socket.snd_una) || backlog <= socket.snd_wnd
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
