//! The way back: a flow without sockets gets some again, or is ended by us.
//!
//! Its packets are held first: those with new bytes are noted, and dropped, and all others go on. What an end has acknowledged by then is where the new socket that speaks with
//! it goes on to send; and it is what the socket of the other end has received, since whatever is not acknowledged that
//! end still has, and sends again. So no byte has to be known here to be delivered once.

use super::header::Segment;
use super::seq::{before, place};
use super::seq_validation::may_have_ended;
use crate::abi::packet::{Answer, Command, Entry, state};

/// Packets are held for so long at most. A daemon that dies meanwhile leaves nobody who would let them go.
pub const HELD_MS: u32 = 3000;

/// New sockets are put to work up to so long after packets were held: well before the programs give up on them.
pub const FREE_MS: u32 = 2000;

/// Time stamps of a new socket are ahead of the latest one that its peer may have seen by so much: the one that is known
/// may be that of a packet that had been overtaken.
const AHEAD_MS: u32 = 1000;

/// Of TCP (RFC 7323).
const MAX_WINDOW: u64 = 1 << 30;

/// What both entries of a flow become by `command`, `held_ms` after its packets were held.
///
/// # Errors
/// The flow is in no state for it.
#[inline(always)]
pub const fn change(command: Command, [client, server]: [u8; 2], held_ms: u32) -> Result<u8, Answer> {
    let are_alike = client == server;
    match command {
        Command::Hold if are_alike && client == state::FORWARD => Ok(state::HELD),
        Command::Resume if are_alike && client == state::HELD => Ok(state::FORWARD),
        Command::Free if are_alike && client == state::HELD && held_ms < FREE_MS => Ok(state::DEAD),
        Command::End if client != state::ARMED && server != state::ARMED => Ok(state::ENDED),
        _ => Err(Answer::OtherState),
    }
}

/// Whether packets are held at `now_ms`, where an entry says so.
#[must_use]
#[inline(always)]
pub const fn is_held(entry: &Entry, now_ms: u32) -> bool {
    now_ms.wrapping_sub(entry.handover) < HELD_MS
}

/// Whether the packets of both ends are held, since the same moment. To be asked once no program is at work that began before they were:
/// one that had seen the entries forwarding may have written over what says since when, or have ended the connection.
#[must_use]
pub fn are_held([client, server]: [&Entry; 2], now_ms: u32) -> bool {
    let are_alike = client.state == state::HELD && server.state == state::HELD;
    are_alike && client.handover == server.handover && is_held(client, now_ms)
}

/// Whether a segment with so many bytes of payload brings any that were not sent before.
#[must_use]
#[inline(always)]
pub const fn brings_more(entry: &Entry, segment: &Segment, payload: u32) -> bool {
    payload > 0 && place(entry.sent, entry.start, segment.seq.wrapping_add(payload)) > entry.sent
}

/// Where a new socket begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Sequence number of the next byte that it sends.
    pub send: u32,
    /// And of the next one that it receives.
    pub receive: u32,
    /// So many bytes it may send, as far as is known: at least those that are on their way already, or it could not
    /// catch up with a peer that has got them.
    pub window: u32,
    /// Shift of the windows that the peer announces.
    pub peer_scale: u8,
    /// And of those that the socket does.
    pub own_scale: u8,
    /// Its time stamp of now, if there are any.
    pub stamp: Option<u32>,
}

/// Where the sockets of a flow begin, the client's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starts {
    /// See above.
    pub legs: [Start; 2],
    /// Bytes of each end's stream that the other one has got, the client's first.
    pub delivered: [u64; 2],
}

/// Why a flow cannot have sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// A side has ended its stream, or reset the connection.
    Ended,
    /// An end has acknowledged what nobody is known to have sent: the flow is not known well enough.
    Unknown,
}

impl Hindrance {
    /// For operators.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ended => "one side has closed its stream",
            Self::Unknown => "its ends have said what does not fit together",
        }
    }
}

/// Where new sockets begin, as both entries tell at `now_ms`, the client's first. `stamps`: the connections have time stamps.
///
/// # Errors
/// Why there can be none.
pub fn start([client, server]: [&Entry; 2], stamps: bool, now_ms: u32) -> Result<Starts, Hindrance> {
    let is_reset = client.reset | server.reset != 0;
    if is_reset || may_have_ended(client, server) || may_have_ended(server, client) {
        return Err(Hindrance::Ended);
    }
    let delivered = [delivered(client, server)?, delivered(server, client)?];
    let legs = [
        leg(client, server, delivered[1], stamps, now_ms),
        leg(server, client, delivered[0], stamps, now_ms),
    ];
    Ok(Starts { legs, delivered })
}

/// Segments that a new socket sends without an answer (RFC 6928). A peer that has got more than these, and whose word of it was
/// lost, cannot be reached: Linux throws away what acknowledges bytes that the socket has not sent (`tcp_ack` in
/// `net/ipv4/tcp_input.c`), and so never sends the next ones.
const FIRST_SEGMENTS: u64 = 10;

/// Bytes that each end has not acknowledged of what was forwarded to it, the client first; 0 and 0: what is known is exact.
/// None: it does not fit together.
#[must_use]
pub fn under_way([client, server]: [&Entry; 2]) -> Option<[u64; 2]> {
    let of = |entry: &Entry, other| {
        delivered(entry, other).ok().map(|delivered| entry.sent.saturating_sub(delivered))
    };
    Some([of(server, client)?, of(client, server)?])
}

/// Whether both ends have said something, since their packets are held, that fits what is known of them. Before that it may be wrong.
#[must_use]
pub fn have_confirmed(entries: [&Entry; 2]) -> bool {
    entries.iter().all(|entry| entry.state == state::HELD && !before(entry.active_ms, entry.handover))
}

/// Whether a new socket can catch up with a peer that takes segments of `most` bytes and may have got so many bytes more than
/// it said.
#[must_use]
pub fn can_catch_up(under_way: u64, most: u32) -> bool {
    under_way <= FIRST_SEGMENTS * u64::from(most)
}

/// What the other end has acknowledged, in the numbers of this one.
const fn acknowledged(entry: &Entry, other: &Entry) -> u32 {
    other.acked.wrapping_sub(entry.seq)
}

fn delivered(entry: &Entry, other: &Entry) -> Result<u64, Hindrance> {
    let delivered = place(entry.sent, entry.start, acknowledged(entry, other));
    // One more: of a packet without bytes the number before it is not taken for that of a byte.
    let is_known = delivered <= entry.sent + 1 && entry.sent.saturating_sub(delivered) <= MAX_WINDOW;
    if is_known { Ok(delivered) } else { Err(Hindrance::Unknown) }
}

/// The socket that speaks with the end whose packets come in by `own`. It has got `delivered` bytes of the other's stream.
fn leg(own: &Entry, other: &Entry, delivered: u64, stamps: bool, now_ms: u32) -> Start {
    let under_way = u32::try_from(other.sent.saturating_sub(delivered)).unwrap_or(u32::MAX);
    let window = u32::from(own.window) << own.scales()[0];
    // Packets of the other end that came a while ago tell of its clock as it was then.
    let passed = now_ms.wrapping_sub(other.active_ms).cast_signed().max(0).unsigned_abs();
    let latest = other.stamped.wrapping_add(other.stamp);
    Start {
        send: own.acked,
        receive: acknowledged(own, other),
        window: window.max(under_way),
        peer_scale: own.scales()[0],
        own_scale: other.scales()[1],
        stamp: stamps.then(|| latest.wrapping_add(passed).wrapping_add(AHEAD_MS)),
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
