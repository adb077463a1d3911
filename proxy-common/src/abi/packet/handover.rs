//! A hand-over, while it lasts.

use super::Key;

/// One hand-over, from the moment at which the flow is armed to that at which its sockets are closed. Indexed by leg: 0 is the
/// client's, 1 the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Handover {
    /// [`phase`].
    pub phase: u32,
    /// Packets of the leg that were seen since the flow was armed.
    pub seen: [u32; 2],
    /// Other than 0: [`Self::passed`] is good.
    pub has_passed: [u32; 2],
    /// The highest sequence number that was passed to the leg's socket.
    pub passed: [u32; 2],
    /// Added to the leg's sequence numbers they are the other leg's.
    pub delta: [u32; 2],
    /// The same for time stamps.
    pub stamp: [u32; 2],
    /// What the leg's socket had received when the flow left it: the sequence number that it stays at.
    pub received: [u32; 2],
    /// Where the leg's socket ends to send: the sequence number of the first byte that it does not send.
    pub owed: [u32; 2],
    /// Other than 0: the leg's end has acknowledged all that the socket owes it.
    pub drained: [u32; 2],
    /// Other than 0: and the socket was told.
    pub told: [u32; 2],
    /// The highest acknowledgement number that was forwarded to the leg's end.
    pub last_ack: [u32; 2],
    /// Other than 0: the leg's end has reset the connection.
    pub reset: [u32; 2],
    /// The flow's keys.
    pub keys: [Key; 2],
    /// What was last read of the sockets.
    pub sockets: [Socket; 2],
}

/// Values of [`Handover::phase`].
pub mod phase {
    /// Packets go to the sockets.
    pub const ARMED: u32 = 0;
    /// Packets go past the sockets, which finish what they have begun.
    pub const DRAIN: u32 = 1;
}

/// What matters of a `tcp_sock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Socket {
    /// TCP state; 1 is established.
    pub state: u32,
    /// Next sequence number expected.
    pub rcv_nxt: u32,
    /// Next sequence number that the daemon will read.
    pub copied_seq: u32,
    /// Bytes received, modulo 2^32.
    pub bytes_received: u32,
    /// The upper half.
    pub bytes_received_high: u32,
    /// Next sequence number that the daemon will write.
    pub write_seq: u32,
    /// First one that is not acknowledged.
    pub snd_una: u32,
    /// The peer's window.
    pub snd_wnd: u32,
    /// The peer's latest time stamp.
    pub ts_recent: u32,
    /// Our own time stamp of now.
    pub clock: u32,
    /// Other than 0: segments wait for one before them.
    pub out_of_order: u32,
}

/// Words of a [`Handover`].
pub const HANDOVER_WORDS: usize = 1 + 11 * 2 + 2 * 10 + 2 * 11;
const _: () = assert!(size_of::<Handover>() == HANDOVER_WORDS * 4);
