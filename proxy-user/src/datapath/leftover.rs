//! Bytes that the verdict passed, because their target was not there: userspace writes them, in their place in the
//! stream.

use std::io::{self, Read, Write};
use std::net::TcpStream as Socket;
use std::time::Duration;

use proxy_common::abi::sockmap::{Direction, PASS};
use proxy_common::flow::{Look, Side};

use super::buffers::Buffer;
use super::ending::{Ending, of, readings};

/// Between two looks at a queue that has to empty first; nothing tells when it has.
const PAUSE: Duration = Duration::from_millis(1);

/// Buffers that one direction may move in one turn.
const TURN: usize = 16;

/// Userspace's share of one flow.
pub(super) struct Leftover<'a> {
    sockets: [&'a Socket; 2],
    begun: bool,
    /// Of each source, bytes written to its target.
    written: [u64; 2],
    /// Of each source, what was read and did not fit into its target.
    held: [Option<Held>; 2],
}

struct Held {
    buffer: Buffer,
    range: std::ops::Range<usize>,
}

impl<'a> Leftover<'a> {
    pub(super) fn new(sockets: [&'a Socket; 2]) -> Self {
        Self { sockets, begun: false, written: [0; 2], held: [None, None] }
    }

    /// True once: from now on there is something to do for userspace.
    pub(super) fn begins(&mut self, directions: &[Direction; 2]) -> bool {
        let begins = !self.begun && directions.iter().any(|direction| direction.mode == PASS);
        self.begun |= begins;
        begins
    }

    /// Moves what can be moved now. Some: come back after that time even if nothing happens.
    pub(super) fn carry(
        &mut self,
        directions: &[Direction; 2],
        ending: &Ending,
    ) -> io::Result<Option<Duration>> {
        if !self.begun {
            return Ok(None);
        }
        let look = Look { legs: readings(self.sockets)?, seen: [None; 2] };
        let mut again = None;
        for (side, direction) in Side::BOTH.into_iter().zip(directions) {
            if direction.mode == PASS && self.waits(side, direction) {
                // Bytes that were redirected before stand in the kernel's queue: ours must not overtake them.
                let sent = ending.written(side.other(), &look);
                if sent < direction.redirected.saturating_add(self.written_of(side)) {
                    again = Some(PAUSE);
                } else if self.carry_one(side)? {
                    again = Some(Duration::ZERO);
                }
            }
        }
        Ok(again)
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn waits(&self, side: Side, direction: &Direction) -> bool {
        self.held[side.index()].is_some() || self.written[side.index()] < direction.passed
    }

    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn written_of(&self, side: Side) -> u64 {
        self.written[side.index()]
    }

    /// Says whether there is more to move at once.
    #[expect(clippy::indexing_slicing, reason = "Side::index is below 2")]
    fn carry_one(&mut self, side: Side) -> io::Result<bool> {
        let (source, target) = (of(self.sockets, side), of(self.sockets, side.other()));
        for _ in 0..TURN {
            let held = match self.held[side.index()].take() {
                Some(held) => held,
                None => match read(source)? {
                    Some(held) => held,
                    None => return Ok(false),
                },
            };
            let (count, rest) = write(target, held)?;
            self.written[side.index()] += count as u64;
            if rest.is_some() {
                // The target is full, or gone: its socket tells when that changes.
                self.held[side.index()] = rest;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// None: there is nothing to read now, or never again. Which of them, the byte counts tell.
fn read(mut source: &Socket) -> io::Result<Option<Held>> {
    let mut buffer = Buffer::take();
    match source.read(buffer.bytes()) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(Held { buffer, range: 0..count })),
        Err(error) if is_ending(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(mut target: &Socket, mut held: Held) -> io::Result<(usize, Option<Held>)> {
    let bytes = held.buffer.bytes().get(held.range.clone()).unwrap_or_default();
    match target.write(bytes) {
        Ok(count) => {
            held.range.start += count;
            let rest = (!held.range.is_empty()).then_some(held);
            Ok((count, rest))
        }
        Err(error) if is_ending(&error) => Ok((0, Some(held))),
        Err(error) => Err(error),
    }
}

/// Errors that need no answer of their own: the socket is not ready, or its peer has ended the connection, which the
/// ending finds out by itself.
fn is_ending(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
