//! Scripts: what both peers of a flow do, drawn from a seed, played by many flows at once, and judged by what the peers saw.
//!
//! A seed is a batch of [`FLOWS`] flows, each with a script of its own. [`generate`] draws it, [`Arena`] plays it
//! through a daemon, and [`judge`] says what must hold whatever carries the bytes.

mod arena;
mod course;
mod footprint;
mod generate;
mod judge;
mod peer;
mod play;
pub mod run;

use std::fmt;
use std::time::Duration;

pub use arena::{Arena, WAVE};
pub use footprint::{Footprint, empty, footprint};
pub use generate::generate;
pub use judge::{Outcome, Seen, judge};

/// Flows of one seed.
pub const FLOWS: u64 = 32;

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connects.
    Client,
    /// Who accepts.
    Server,
}

impl Side {
    /// The word of the access record.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "upstream",
        }
    }
}

/// What one peer writes, one step after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// Writes the next bytes of its stream.
    Write(usize),
    /// Does nothing for a while.
    Pause(Duration),
    /// Goes on when it has received so many bytes.
    AwaitBytes(u64),
    /// Goes on when its peer's stream has ended.
    AwaitEnd,
    /// Goes on when bytes lie unread in its queue.
    AwaitUnread,
    /// Ends its stream; it reads on.
    Finish,
    /// Ends the connection with RST.
    Reset,
    /// Closes the connection, read or not.
    Close,
}

/// What one peer reads. After the last step it reads to the end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum In {
    /// Reads so many bytes, at most `chunk` at a time.
    Read {
        /// Bytes in all.
        bytes: u64,
        /// Bytes of one call.
        chunk: usize,
    },
    /// Reads nothing for a while.
    Pause(Duration),
    /// Reads nothing more.
    Stop,
}

/// One peer's part in a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// `SO_RCVBUF`; none: the kernel's own.
    pub receive_buffer: Option<usize>,
    /// What it writes.
    pub out: Vec<Out>,
    /// How it reads.
    pub into: Vec<In>,
}

impl Part {
    /// All bytes that it writes, unless the connection breaks before.
    pub fn bytes(&self) -> u64 {
        let bytes = |step: &Out| if let Out::Write(bytes) = step { *bytes as u64 } else { 0 };
        self.out.iter().map(bytes).sum()
    }

    /// Whether it ends its stream in order.
    pub fn finishes(&self) -> bool {
        self.out.contains(&Out::Finish)
    }
}

/// How a flow is meant to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Both sides finish. If one of them waits for the other's end, it is known who is first.
    InOrder {
        /// Who finishes first, if the script says so.
        first: Option<Side>,
    },
    /// One side resets, or closes with bytes unread.
    Cut {
        /// Who does it.
        by: Side,
    },
}

/// A whole flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What the client does. The first bytes of its stream are the hello, where there is one.
    pub client: Part,
    /// What the server does.
    pub server: Part,
    /// How it ends.
    pub ends: Ends,
}

impl Script {
    /// One side's part.
    pub fn part(&self, side: Side) -> &Part {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nodelay={} rcvbuf={:?} writes:", self.nodelay, self.receive_buffer)?;
        for step in &self.out {
            match step {
                Out::Write(bytes) => write!(f, " {bytes}")?,
                Out::Pause(time) => write!(f, " ~{time:?}")?,
                step => write!(f, " {step:?}")?,
            }
        }
        write!(f, "; reads:")?;
        for step in &self.into {
            match step {
                In::Read { bytes, chunk } => write!(f, " {bytes}/{chunk}")?,
                In::Pause(time) => write!(f, " ~{time:?}")?,
                In::Stop => write!(f, " Stop")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, server) = (self.client.bytes(), self.server.bytes());
        writeln!(f, "{:?}, {client} bytes in, {server} bytes out", self.ends)?;
        writeln!(f, "  client: {}", self.client)?;
        write!(f, "  server: {}", self.server)
    }
}
