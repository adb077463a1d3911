//! What the daemon asks the programs, and what they answer.

/// The input of [`super::CONTROL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// [`Command`].
    pub command: u32,
    /// Number of the hand-over.
    pub handover: u32,
    /// The kernel runs no classifier on less than an Ethernet header.
    pub padding: [u32; 14],
}

/// Bytes of a [`Request`].
pub const REQUEST_BYTES: usize = 64;
const _: () = assert!(size_of::<Request>() == REQUEST_BYTES);

impl Request {
    /// As the program reads it.
    #[must_use]
    pub fn bytes(command: Command, handover: u32) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let words = [(command as u32).to_ne_bytes(), handover.to_ne_bytes()];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
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
        ];
        all.into_iter().find(|&answer| answer as u32 == code).unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_comes_back() {
        for answer in [Answer::Done, Answer::Unseen, Answer::Malformed] {
            assert_eq!(Answer::from_code(answer as u32), answer);
        }
        assert_eq!(Answer::from_code(77), Answer::Malformed);
    }

    #[test]
    fn a_request_is_read_as_it_is_written() {
        let bytes = Request::bytes(Command::Settle, 7);
        assert_eq!(bytes[..4], 3_u32.to_ne_bytes());
        assert_eq!(bytes[core::mem::offset_of!(Request, handover)..][..4], 7_u32.to_ne_bytes());
    }
}
