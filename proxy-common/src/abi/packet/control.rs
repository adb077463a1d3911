//! What the daemon asks the programs, and what they answer.

use super::{KEY_WORDS, Key};

/// The input of [`super::CONTROL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// [`Command`].
    pub command: u32,
    /// Number of the hand-over.
    pub handover: u32,
    /// Key of the client's packets, for what is ordered of a flow without a hand-over.
    pub key: [u32; KEY_WORDS],
    /// 0.
    pub padding: [u32; 4],
}

/// Bytes of a [`Request`].
pub const REQUEST_BYTES: usize = 64;
const _: () = assert!(size_of::<Request>() == REQUEST_BYTES);

impl Request {
    /// As the program reads it.
    #[must_use]
    pub fn bytes(command: Command, handover: u32) -> [u8; REQUEST_BYTES] {
        Self::write(&[command as u32, handover], &[])
    }

    /// The same for the flow whose client's packets have this key.
    #[must_use]
    pub fn bytes_for(command: Command, key: &Key) -> [u8; REQUEST_BYTES] {
        Self::write(&[command as u32, 0], &key.to_words())
    }

    fn write(head: &[u32], key: &[u32]) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let words = head.iter().chain(key).flat_map(|word| word.to_ne_bytes());
        for (to, from) in bytes.iter_mut().zip(words) {
            *to = from;
        }
        bytes
    }
}

/// What the daemon may ask [`super::CONTROL`] for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Command {
    /// Read the sockets.
    Look = 1,
    /// Let packets go past the sockets, if nothing stands against it.
    Flip = 2,
    /// The sockets have finished: make the entries whole, and forward by them alone.
    Settle = 3,
    /// A flow without sockets is about to get some: drop what brings new bytes.
    Hold = 4,
    /// It gets none: forward its packets again.
    Resume = 5,
    /// It has them: leave its packets to the stack.
    Free = 6,
    /// It is ended: leave its packets to the stack, which answers with resets, and note who knows.
    End = 7,
}

impl Command {
    /// From the number in a request. None: it is about a hand-over, or nothing that is known.
    #[must_use]
    #[inline(always)]
    pub const fn of_flow(number: u32) -> Option<Self> {
        match number {
            4 => Some(Self::Hold),
            5 => Some(Self::Resume),
            6 => Some(Self::Free),
            7 => Some(Self::End),
            _ => None,
        }
    }
}

/// What [`super::CONTROL`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// Done.
    Done = 1,
    /// No such hand-over, or one of its entries is gone.
    Unknown = 2,
    /// A socket is gone.
    NoSocket = 3,
    /// A socket is not established, or no longer.
    NotEstablished = 4,
    /// Segments have arrived out of order.
    OutOfOrder = 5,
    /// A segment is between the program and its socket.
    Between = 6,
    /// More is on its way to an end than its window takes.
    Backlog = 7,
    /// Flipped already.
    Flipped = 8,
    /// The packets of an end were not seen since the flow was armed.
    Unseen = 9,
    /// The request was not understood.
    Malformed = 10,
    /// The flow is not in the state, or no longer, that the request is about.
    OtherState = 11,
}

impl Answer {
    /// From the program's return value.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        let all = [
            Self::Done,
            Self::Unknown,
            Self::NoSocket,
            Self::NotEstablished,
            Self::OutOfOrder,
            Self::Between,
            Self::Backlog,
            Self::Flipped,
            Self::Unseen,
            Self::OtherState,
        ];
        all.into_iter().find(|&answer| answer as u32 == code).unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_comes_back() {
        for answer in [Answer::Done, Answer::Unseen, Answer::Malformed, Answer::OtherState] {
            assert_eq!(Answer::from_code(answer as u32), answer);
        }
        assert_eq!(Answer::from_code(77), Answer::Malformed);
    }

    #[test]
    fn a_request_is_read_as_it_is_written() {
        let bytes = Request::bytes(Command::Settle, 7);
        assert_eq!(bytes[..4], 3_u32.to_ne_bytes());
        assert_eq!(bytes[core::mem::offset_of!(Request, handover)..][..4], 7_u32.to_ne_bytes());
        let key = Key { source: [9, 0, 0, 0], ..Key::default() };
        let bytes = Request::bytes_for(Command::Hold, &key);
        assert_eq!(bytes[core::mem::offset_of!(Request, key)..][..4], 9_u32.to_ne_bytes());
        for command in [Command::Hold, Command::Resume, Command::Free, Command::End] {
            assert_eq!(Command::of_flow(command as u32), Some(command));
        }
        assert_eq!(Command::of_flow(Command::Settle as u32), None);
    }
}
