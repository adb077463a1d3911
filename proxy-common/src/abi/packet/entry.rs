//! The two entries of a flow.

use super::key::{Address, Key, join, split};

/// What becomes of the packets of one end.
///
/// 96 bytes: with its key and the kernel's own 48 an entry fills an object of 192 bytes, and not one more.
///
/// # Who writes what
///
/// The programs write here without a lock, on any processor: those that see packets of this peer, those that see packets of the other
/// one ([`crate::packet::claim`]), the commands of [`super::CONTROL`], and the timer. So these rules hold, and the programs rely on them
/// where they take an element of the map by reference:
///
/// - Every field is aligned and at most eight bytes long, and is read and written by one instruction: nobody sees half of one.
/// - No field is changed by reading it, changing a bit and writing it, if anybody else may have changed another bit meanwhile. That is why
///   there are three fields of flags: an end, a reset and a doubt that are noted at the same moment do not undo each other.
/// - What belongs together is written in an order in which each moment is harmless: [`Self::fin`] before the flag that makes it good,
///   the time in [`Self::handover`] before [`state::HELD`], all others before [`state::FORWARD`].
/// - [`Self::sent`], [`Self::acked`] and [`Self::window`] only grow while packets fit, but of two processors that see two packets of one
///   peer at the same moment the one with the older packet may write last. The next packet puts that right. Where there is none, the
///   end of the flow is not seen, the daemon asks both peers, and their answers repeat it. A card gives all packets of a connection to
///   one processor, so that this takes a second path, or a stranger.
/// - The kernel gives the memory of a removed entry to another key at once. A program that found it before may note one packet in the
///   wrong entry: docs/packet-hazards.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry {
    /// [`state`].
    pub state: u8,
    /// 0: these packets come from the client; 1: from the server.
    pub leg: u8,
    /// [`Self::scales_of`].
    pub scales: u8,
    /// 0, or [`flag::DOUBT`], with [`flag::CAUSE`] or without.
    pub doubt: u8,
    /// 0, or [`flag::FIN`] or [`flag::SAID`], with [`flag::FIRST`] or without.
    pub ended: u8,
    /// 0, or [`flag::RST`], with [`flag::CAUSE`] or without. Never taken back.
    pub reset: u8,
    /// The window as last announced, before the shift.
    pub window: u16,
    /// Bytes of its stream that this end has sent so far, as the largest place in the stream that was seen.
    pub sent: u64,
    /// Number of the hand-over, while it lasts. While packets are held: since when, by the clock of [`Self::active_ms`]. While they are
    /// forwarded: 0, or what the last packet of this peer said that did not fit ([`crate::packet::claim`]).
    pub handover: u32,
    /// Interface that the packets go out by. 0: nothing leads to where they go, and they are dropped.
    pub device: u32,
    /// What the packets bear when they go out: the address that they come from,
    pub source: Address,
    /// and the address that they go to;
    pub target: Address,
    /// the ports.
    pub source_port: u16,
    /// See above.
    pub target_port: u16,
    /// Added to sequence numbers.
    pub seq: u32,
    /// Added to acknowledgement numbers.
    pub ack: u32,
    /// Added to time stamps,
    pub stamp: u32,
    /// and to their echoes.
    pub echo: u32,
    /// Sequence number, as it comes in, of the first byte of the stream.
    pub start: u32,
    /// The highest acknowledgement number that has come in.
    pub acked: u32,
    /// The latest time stamp that has come in.
    pub stamped: u32,
    /// When the last packet came, in milliseconds of the monotonic clock. While packets are held: the last one that fits what is known.
    pub active_ms: u32,
    /// Sequence number, as it comes in, of the end of the stream; good with [`flag::FIN`] or [`flag::SAID`].
    pub fin: u32,
}

/// Words of an [`Entry`].
pub const ENTRY_WORDS: usize = 24;
const _: () = assert!(size_of::<Entry>() == ENTRY_WORDS * 4);
const _: () = assert!(core::mem::offset_of!(Entry, sent) == 8);
const _: () = assert!(core::mem::offset_of!(Entry, source_port) == 56);

/// Values of [`Entry::state`].
pub mod state {
    /// The sockets have the flow; packets are watched on their way to them.
    pub const ARMED: u8 = 1;
    /// The packets are translated, and the sockets know nothing of the flow.
    pub const FORWARD: u8 = 2;
    /// Packets go to the host's own stack, which answers with a reset unless there is a socket.
    pub const DEAD: u8 = 3;
    /// Packets with new bytes are noted and dropped: the flow is about to get sockets again. It was so since [`super::Entry::handover`], a time;
    /// after [`crate::packet::restore::HELD_MS`] the state is as good as [`FORWARD`].
    pub const HELD: u8 = 4;
    /// The flow was ended by us: as [`DEAD`], and it is noted when an end shows that it knows.
    pub const ENDED: u8 = 5;
}

/// Bits of [`Entry::ended`], [`Entry::reset`] and [`Entry::doubt`].
pub mod flag {
    /// This end has ended its stream.
    pub const FIN: u8 = 1;
    /// This end has reset the connection.
    pub const RST: u8 = 2;
    /// With FIN or SAID: before the other one did.
    pub const FIRST: u8 = 4;
    /// Somebody says that this end has reset the connection: it is to be asked.
    pub const DOUBT: u8 = 8;
    /// Somebody says that this end has ended its stream, too late or too early to be believed by that alone: see
    /// [`crate::packet::seq_validation::is_acknowledged`].
    pub const SAID: u8 = 32;
    /// With RST or DOUBT: before either was said of the other one, which may have reset the connection for that.
    pub const CAUSE: u8 = 16;
}

impl Entry {
    /// The shift of the windows that the packets announce, and of those that their receiver believes in. Each is 14 at most (RFC 7323, section 2.3).
    #[must_use]
    #[inline(always)]
    pub const fn scales_of(scale_in: u8, scale_out: u8) -> u8 {
        scale_in & 15 | (scale_out & 15) << 4
    }

    /// See above.
    #[must_use]
    #[inline(always)]
    pub const fn scales(&self) -> [u8; 2] {
        [self.scales & 15, self.scales >> 4]
    }

    /// Whether the end of its stream was seen, and believed.
    #[must_use]
    #[inline(always)]
    pub const fn has_ended(&self) -> bool {
        self.ended & flag::FIN != 0
    }

    /// All [`flag`]s.
    #[must_use]
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        self.ended | self.reset | self.doubt
    }

    /// With more flags.
    #[cfg(test)]
    pub(crate) fn with(self, flags: u8) -> Self {
        let of = |bit: u8, more: u8| if flags & bit == 0 { 0 } else { flags & (bit | more) };
        Self {
            ended: self.ended | of(flag::FIN, flag::FIRST) | of(flag::SAID, flag::FIRST),
            reset: self.reset | of(flag::RST, flag::CAUSE),
            doubt: self.doubt | of(flag::DOUBT, flag::CAUSE),
            ..self
        }
    }

    /// Where the packets of the other end come in.
    #[must_use]
    #[inline(always)]
    pub const fn other(&self) -> Key {
        Key {
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
            padding: 0,
        }
    }

    /// As the map keeps it.
    #[must_use]
    pub const fn to_words(&self) -> [u32; ENTRY_WORDS] {
        let [low, high] = halves(self.sent);
        let [s0, s1, s2, s3] = self.source;
        let [t0, t1, t2, t3] = self.target;
        [
            u32::from_ne_bytes([self.state, self.leg, self.scales, self.doubt]),
            join([u16::from_ne_bytes([self.ended, self.reset]), self.window]),
            low,
            high,
            self.handover,
            self.device,
            s0,
            s1,
            s2,
            s3,
            t0,
            t1,
            t2,
            t3,
            join([self.source_port, self.target_port]),
            self.seq,
            self.ack,
            self.stamp,
            self.echo,
            self.start,
            self.acked,
            self.stamped,
            self.active_ms,
            self.fin,
        ]
    }

    /// The reverse of [`Self::to_words`].
    #[must_use]
    pub const fn from_words(words: &[u32; ENTRY_WORDS]) -> Self {
        let [
            first,
            second,
            low,
            high,
            handover,
            device,
            s0,
            s1,
            s2,
            s3,
            t0,
            t1,
            t2,
            t3,
            ports,
            seq,
            ack,
            stamp,
            echo,
            start,
            acked,
            stamped,
            active_ms,
            fin,
        ] = *words;
        let [state, leg, scales, doubt] = first.to_ne_bytes();
        let [signs, window] = split(second);
        let [ended, reset] = signs.to_ne_bytes();
        let [source_port, target_port] = split(ports);
        Self {
            state,
            leg,
            scales,
            doubt,
            ended,
            reset,
            window,
            sent: whole([low, high]),
            handover,
            device,
            source: [s0, s1, s2, s3],
            target: [t0, t1, t2, t3],
            source_port,
            target_port,
            seq,
            ack,
            stamp,
            echo,
            start,
            acked,
            stamped,
            active_ms,
            fin,
        }
    }
}

const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

const fn whole([one, other]: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (one.to_ne_bytes(), other.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let words = core::array::from_fn(|at| 0x0101_0000 * u32::try_from(at).unwrap() + 7);
        let entry = Entry::from_words(&words);
        assert_eq!(entry.to_words(), words);
        assert_eq!(entry.sent.to_ne_bytes()[..4], words[2].to_ne_bytes());
        assert_eq!((entry.fin, entry.state), (words[23], words[0].to_ne_bytes()[0]));
        let places = [entry.scales, entry.doubt, entry.ended, entry.reset];
        let [_, _, scales, doubt] = words[0].to_ne_bytes();
        let [ended, reset, ..] = words[1].to_ne_bytes();
        assert_eq!(places, [scales, doubt, ended, reset]);
    }

    #[test]
    fn both_scales_fit_into_a_byte() {
        for scales in [[0, 14], [14, 0], [7, 8]] {
            let entry = Entry { scales: Entry::scales_of(scales[0], scales[1]), ..Entry::default() };
            assert_eq!(entry.scales(), scales);
        }
    }
}
