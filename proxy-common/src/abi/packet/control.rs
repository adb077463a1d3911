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
    /// For [`Command::Steer`]: the interface.
    pub device: u32,
    /// 0.
    pub padding: u32,
    /// Key of the entry, or of the client's packets, for what is ordered of a flow without a hand-over.
    pub key: [u32; KEY_WORDS],
    /// The kernel runs no classifier on less than an Ethernet header.
    pub rest: [u32; 2],
}

/// Bytes of a [`Request`].
pub const REQUEST_BYTES: usize = 64;
/// Where its key is.
pub const REQUEST_KEY: u32 = 16;
const _: () = assert!(core::mem::offset_of!(Request, key) == REQUEST_KEY as usize);
const _: () = assert!(size_of::<Request>() == REQUEST_BYTES);

impl Request {
    /// As the program reads it.
    #[must_use]
    pub fn bytes(command: Command, handover: u32) -> [u8; REQUEST_BYTES] {
        Self::written(&[command as u32, handover])
    }

    /// [`Command::Steer`].
    #[must_use]
    pub fn steering(key: &Key, device: u32) -> [u8; REQUEST_BYTES] {
        Self::keyed(Command::Steer, device, key)
    }

    /// What is ordered of the flow whose client's packets have this key, without a hand-over.
    #[must_use]
    pub fn bytes_for(command: Command, key: &Key) -> [u8; REQUEST_BYTES] {
        Self::keyed(command, 0, key)
    }

    fn keyed(command: Command, device: u32, key: &Key) -> [u8; REQUEST_BYTES] {
        let head = [command as u32, 0, device, 0];
        let mut words = [0; 4 + KEY_WORDS];
        for (to, from) in words.iter_mut().zip(head.into_iter().chain(key.to_words())) {
            *to = from;
        }
        Self::written(&words)
    }

    fn written(words: &[u32]) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        for (to, from) in bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())) {
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
    /// From now on packets with this key go out by that interface.
    Steer = 4,
    /// Start the timer that looks after the flows when the daemon does not.
    Tend = 5,
    /// A flow without sockets is about to get some: drop what brings new bytes.
    Hold = 6,
    /// It gets none: forward its packets again.
    Resume = 7,
    /// It has them: leave its packets to the stack.
    Free = 8,
    /// It is ended: leave its packets to the stack, which answers with resets, and note who knows.
    End = 9,
}

impl Command {
    /// From the number in a request. None: it is about a hand-over, or nothing that is known.
    #[must_use]
    #[inline(always)]
    pub const fn of_flow(number: u32) -> Option<Self> {
        match number {
            6 => Some(Self::Hold),
            7 => Some(Self::Resume),
            8 => Some(Self::Free),
            9 => Some(Self::End),
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

    #[test]
    fn a_way_is_asked_for_by_its_key() {
        let key =
            Key { source: [1, 2, 3, 4], target: [5, 6, 7, 8], source_port: 9, target_port: 10, padding: 0 };
        let bytes = Request::steering(&key, 77);
        assert_eq!(bytes[core::mem::offset_of!(Request, device)..][..4], 77_u32.to_ne_bytes());
        let at = REQUEST_KEY as usize;
        assert_eq!(Key::from_bytes(bytes[at..].first_chunk().unwrap()), key);
    }
}
