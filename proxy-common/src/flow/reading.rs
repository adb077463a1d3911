//! What the kernel says of a socket, and what it follows that has moved since the hand-over.

use std::time::Duration;

/// TCP states as `TCP_INFO` gives them (`include/net/tcp_states.h`).
const TIME_WAIT: u8 = 6;
pub(super) const CLOSE: u8 = 7;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// What the kernel says of one socket. `TCP_INFO` must be read before `SIOCOUTQ`: an acknowledgement between the
/// two then makes the sum too small for a moment, never too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// `tcpi_state`.
    pub state: u8,
    /// `tcpi_bytes_acked`.
    pub acked: u64,
    /// `tcpi_bytes_received`.
    pub received: u64,
    /// `SIOCOUTQ`: bytes written and not yet acknowledged.
    pub queued: u64,
    /// `tcpi_bytes_sent` less `tcpi_bytes_retrans`: bytes sent at least once. No SYN and no FIN is among them.
    pub sent: u64,
    /// Time since the peer was last heard of, while it owes us an answer. Else zero.
    pub silent: Duration,
    /// Time since a byte was last sent to the peer or received from it.
    pub rested: Duration,
}

impl Reading {
    /// Nothing will be sent or received any more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.state == CLOSE
    }

    pub(super) const fn fin_received(&self) -> bool {
        matches!(self.state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT)
    }
}

/// One socket at the moment of the hand-over: the zero that later readings are measured from.
#[derive(Debug, Clone, Copy)]
pub struct Leg {
    written: u64,
    received: u64,
}

impl Leg {
    /// For counts that begin with the connection: from a reading when `written` bytes of the flow had been written to it.
    #[must_use]
    pub const fn from_start(reading: &Reading, written: u64) -> Self {
        // What waits in the receive queue at that moment is still to be carried, and `received` counts it already.
        let sum = reading.acked.wrapping_add(reading.queued);
        Self { written: sum.wrapping_sub(written), received: 0 }
    }

    /// For counts that begin now: userspace has read `read` bytes from it, to the end of its queue, and written all that it
    /// had for it.
    #[must_use]
    pub const fn from_now(reading: &Reading, read: u64) -> Self {
        Self { received: read, ..Self::from_start(reading, 0) }
    }

    pub(super) fn written(&self, reading: &Reading, fin_sent: bool) -> u64 {
        reading
            .acked
            .wrapping_add(reading.queued)
            .saturating_sub(self.written)
            .saturating_sub(u64::from(fin_sent))
    }

    pub(super) fn received(&self, reading: &Reading, fin: bool) -> u64 {
        reading.received.saturating_sub(self.received).saturating_sub(u64::from(fin))
    }

    /// Like [`Self::written`]; of a closed connection at least what was sent of that. `syn`: 1 if the connection is one of ours,
    /// so that its count begins with our SYN.
    pub(super) fn given(&self, reading: &Reading, fin_sent: bool, syn: u64) -> u64 {
        let written = self.written(reading, fin_sent);
        if !reading.is_closed() {
            return written;
        }
        written.max(reading.sent.saturating_sub(self.written.saturating_sub(syn)))
    }
}
