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

impl Handover {
    /// As the map keeps it behind its lock.
    #[must_use]
    pub fn to_words(&self) -> [u32; HANDOVER_WORDS] {
        let pairs = [
            self.seen,
            self.has_passed,
            self.passed,
            self.delta,
            self.stamp,
            self.received,
            self.owed,
            self.drained,
            self.told,
            self.last_ack,
            self.reset,
        ];
        let keys = self.keys.map(|key| key.to_words());
        let sockets = self.sockets.map(Socket::to_words);
        let all = pairs.as_flattened().iter().chain(keys.as_flattened()).chain(sockets.as_flattened());
        let mut words = [0; HANDOVER_WORDS];
        for (word, value) in words.iter_mut().zip(core::iter::once(&self.phase).chain(all)) {
            *word = *value;
        }
        words
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub fn from_words(words: &[u32; HANDOVER_WORDS]) -> Self {
        let mut rest = words.iter().copied();
        let mut next = || rest.next().unwrap_or(0);
        let phase = next();
        let mut pair = || [next(), next()];
        let [seen, has_passed, passed, delta, stamp, received, owed, drained, told, last_ack, reset] =
            core::array::from_fn(|_| pair());
        let keys = [(); 2].map(|()| Key::from_words(core::array::from_fn(|_| next())));
        let sockets = [(); 2].map(|()| Socket::from_words(core::array::from_fn(|_| next())));
        Self {
            phase,
            seen,
            has_passed,
            passed,
            delta,
            stamp,
            received,
            owed,
            drained,
            told,
            last_ack,
            reset,
            keys,
            sockets,
        }
    }
}

/// Words of a [`Socket`].
const SOCKET_WORDS: usize = 11;
const _: () = assert!(size_of::<Socket>() == SOCKET_WORDS * 4);

impl Socket {
    const fn to_words(self) -> [u32; SOCKET_WORDS] {
        [
            self.state,
            self.rcv_nxt,
            self.copied_seq,
            self.bytes_received,
            self.bytes_received_high,
            self.write_seq,
            self.snd_una,
            self.snd_wnd,
            self.ts_recent,
            self.clock,
            self.out_of_order,
        ]
    }

    const fn from_words(words: [u32; SOCKET_WORDS]) -> Self {
        let [
            state,
            rcv_nxt,
            copied_seq,
            bytes_received,
            bytes_received_high,
            write_seq,
            snd_una,
            snd_wnd,
            ts_recent,
            clock,
            out_of_order,
        ] = words;
        Self {
            state,
            rcv_nxt,
            copied_seq,
            bytes_received,
            bytes_received_high,
            write_seq,
            snd_una,
            snd_wnd,
            ts_recent,
            clock,
            out_of_order,
        }
    }

    /// Bytes received since the connection was made.
    #[must_use]
    pub const fn received(&self) -> u64 {
        (self.bytes_received_high as u64) << 32 | self.bytes_received as u64
    }

    /// The sequence number of the first byte that its peer sent.
    #[must_use]
    pub const fn first(&self) -> u32 {
        self.rcv_nxt.wrapping_sub(self.bytes_received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back_to_its_place() {
        let words = core::array::from_fn(|at| u32::try_from(at).unwrap() * 0x0001_0003 + 5);
        let handover = Handover::from_words(&words);
        assert_eq!(handover.to_words(), words);
        let at = |offset: usize| words[offset / 4];
        assert_eq!(handover.reset[1], at(core::mem::offset_of!(Handover, reset) + 4));
        assert_eq!(handover.keys[1].source[0], at(core::mem::offset_of!(Handover, keys) + 40));
        assert_eq!(
            handover.sockets[1].clock,
            at(core::mem::offset_of!(Handover, sockets) + 44 + core::mem::offset_of!(Socket, clock))
        );
    }

    #[test]
    fn counts_of_a_socket_are_put_together() {
        let socket = Socket { bytes_received: 5, bytes_received_high: 2, rcv_nxt: 3, ..Socket::default() };
        assert_eq!((socket.received(), socket.first()), ((2 << 32) + 5, u32::MAX - 1));
    }
}
