//! One peer of one flow, as a state machine over a non-blocking socket.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::course::Course;
use super::{In, Out, Part, Seen};
use crate::peers::raw::{Ending, is_reset};

/// Most that a peer moves in one turn, so that the others get theirs.
const TURN: u64 = 1 << 20;

/// What a peer waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wants {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) until: Option<Instant>,
}

/// What one attempt to go on came to.
enum Move {
    /// It went on.
    On,
    /// The socket has to become ready.
    Blocked,
    /// Something else has to happen first.
    Waiting,
}

/// A peer that plays its part.
#[derive(Debug)]
pub(super) struct Peer {
    part: Part,
    socket: Option<TcpStream>,
    connecting: bool,
    sends: Course,
    expects: Course,
    /// Steps done, and how much of the current one.
    out_at: usize,
    in_at: usize,
    in_done: u64,
    /// Bytes of the current write that the socket has not taken yet.
    pending: Vec<u8>,
    pending_at: usize,
    out_pause: Option<Instant>,
    in_pause: Option<Instant>,
    began: Instant,
    pub(super) seen: Seen,
}

impl Peer {
    pub(super) fn new(part: Part, sends: Course, expects: Course) -> Self {
        Self {
            part,
            socket: None,
            connecting: false,
            sends,
            expects,
            out_at: 0,
            in_at: 0,
            in_done: 0,
            pending: Vec::new(),
            pending_at: 0,
            out_pause: None,
            in_pause: None,
            began: Instant::now(),
            seen: Seen::default(),
        }
    }

    /// Gives it its socket, which is connected or about to be.
    pub(super) fn start(&mut self, socket: TcpStream, connecting: bool) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(self.part.nodelay)?;
        if let Some(bytes) = self.part.receive_buffer {
            SockRef::from(&socket).set_recv_buffer_size(bytes)?;
        }
        self.seen.connected = true;
        self.seen.address = socket.local_addr().ok();
        self.connecting = connecting;
        self.socket = Some(socket);
        self.note(if connecting { "connects" } else { "accepted" });
        Ok(())
    }

    pub(super) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    /// Whether nothing is left to do, since it has come to its end.
    pub(super) fn is_done(&self) -> bool {
        self.seen.connected && self.socket.is_none()
    }

    /// Where it stands.
    pub(super) fn position(&self) -> String {
        let (out, into) = (self.part.out.get(self.out_at), self.part.into.get(self.in_at));
        format!("at {out:?} and {into:?} ({:?})", self.seen)
    }

    /// Does what it can now, and says what it waits for.
    pub(super) fn advance(&mut self) -> Wants {
        let moved_before = self.seen.written + self.seen.received;
        loop {
            if self.socket.is_none() {
                return Wants::default();
            }
            if self.connecting {
                match self.connect() {
                    Ok(true) => self.connecting = false,
                    Ok(false) => return Wants { write: true, ..Wants::default() },
                    Err(error) => self.break_off(&error),
                }
                continue;
            }
            let wrote = self.write();
            let wrote = self.settled(wrote);
            let read = if self.socket.is_some() { self.read() } else { Ok(Move::Waiting) };
            let read = self.settled(read);
            let moved = self.seen.written + self.seen.received - moved_before;
            let on = matches!(wrote, Move::On) || matches!(read, Move::On);
            if self.socket.is_some() && on && moved < TURN {
                continue;
            }
            let awaits_unread = self.part.out.get(self.out_at) == Some(&Out::AwaitUnread);
            return Wants {
                read: !matches!(read, Move::Waiting) || awaits_unread,
                write: !matches!(wrote, Move::Waiting),
                until: [self.out_pause, self.in_pause].into_iter().flatten().min(),
            };
        }
    }

    fn settled(&mut self, result: io::Result<Move>) -> Move {
        match result {
            Ok(Move::On) => Move::On,
            Ok(other) => other,
            Err(error) => {
                self.break_off(&error);
                Move::Waiting
            }
        }
    }

    fn connect(&self) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The connection failed.
    fn break_off(&mut self, error: &io::Error) {
        if is_reset(error) {
            self.note("sees a reset");
            self.seen.ending = Some(Ending::Reset);
        } else {
            self.seen.complaint.get_or_insert(format!("a socket failed: {error}"));
        }
        self.socket = None;
    }

    fn write(&mut self) -> io::Result<Move> {
        if self.pending_at < self.pending.len() {
            return self.flush();
        }
        if is_pausing(&mut self.out_pause) {
            return Ok(Move::Waiting);
        }
        let Some(&step) = self.part.out.get(self.out_at) else { return Ok(Move::Waiting) };
        let goes_on = match step {
            Out::Write(bytes) => {
                self.pending.resize(bytes, 0);
                self.pending_at = 0;
                self.sends.fill(&mut self.pending);
                true
            }
            Out::Pause(time) => {
                self.out_pause = Some(Instant::now() + time);
                true
            }
            Out::AwaitBytes(bytes) => self.seen.received >= bytes,
            Out::AwaitEnd => self.seen.ending.is_some(),
            // Only bytes that nobody is about to read make a close a reset.
            Out::AwaitUnread => self.part.into.get(self.in_at) == Some(&In::Stop) && self.has_unread()?,
            Out::Finish => self.finish()?,
            Out::Reset => self.reset()?,
            Out::Close => self.close(),
        };
        if !goes_on {
            return Ok(Move::Waiting);
        }
        self.out_at += 1;
        Ok(Move::On)
    }

    fn flush(&mut self) -> io::Result<Move> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(Move::Waiting) };
        match socket.write(self.pending.get(self.pending_at..).unwrap_or_default()) {
            Ok(count) => {
                self.pending_at += count;
                self.seen.written += count as u64;
                Ok(Move::On)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Move::Blocked),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Move::On),
            Err(error) => Err(error),
        }
    }

    fn has_unread(&self) -> io::Result<bool> {
        match self.socket.as_ref().map(|socket| socket.peek(&mut [0])) {
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Some(result) => result.map(|count| count > 0),
            None => Ok(false),
        }
    }

    fn finish(&mut self) -> io::Result<bool> {
        match self.socket.as_ref().map(|socket| socket.shutdown(Shutdown::Write)) {
            // Reset in the meantime.
            Some(Err(error)) if error.kind() == ErrorKind::NotConnected => {
                return Err(ErrorKind::ConnectionReset.into());
            }
            Some(result) => result?,
            None => {}
        }
        self.note("finishes");
        self.seen.finished = true;
        self.close_if_ended();
        Ok(true)
    }

    fn reset(&mut self) -> io::Result<bool> {
        if let Some(socket) = self.socket.take() {
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        self.note("resets");
        Ok(true)
    }

    fn close(&mut self) -> bool {
        self.socket = None;
        self.note("closes with bytes unread");
        true
    }

    fn read(&mut self) -> io::Result<Move> {
        if self.seen.ending.is_some() || is_pausing(&mut self.in_pause) {
            return Ok(Move::Waiting);
        }
        let most = match self.part.into.get(self.in_at) {
            Some(In::Pause(time)) => {
                self.in_pause = Some(Instant::now() + *time);
                self.in_at += 1;
                return Ok(Move::On);
            }
            Some(In::Stop) => return Ok(Move::Waiting),
            Some(In::Read { bytes, chunk }) => {
                usize::try_from(bytes.saturating_sub(self.in_done)).unwrap_or(*chunk).min(*chunk)
            }
            None => 64 * 1024,
        };
        if most == 0 {
            self.in_at += 1;
            self.in_done = 0;
            return Ok(Move::On);
        }
        self.take(most)
    }

    fn take(&mut self, most: usize) -> io::Result<Move> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(Move::Waiting) };
        let mut buffer = [0; 64 * 1024];
        match socket.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => {
                self.note("sees the end");
                self.seen.ending = Some(Ending::Eof);
                self.close_if_ended();
                Ok(Move::On)
            }
            Ok(count) => {
                if let Err(error) = self.expects.check(buffer.get(..count).unwrap_or_default()) {
                    self.seen.complaint.get_or_insert(format!("{error:#}"));
                }
                self.seen.received += count as u64;
                self.in_done += count as u64;
                Ok(Move::On)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Move::Blocked),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Move::On),
            Err(error) => Err(error),
        }
    }

    /// Both directions have ended in order. A peer that means to reset later stays.
    fn close_if_ended(&mut self) {
        let resets_later =
            self.part.out.iter().skip(self.out_at).any(|step| matches!(step, Out::Reset | Out::Close));
        if self.seen.finished && self.seen.ending == Some(Ending::Eof) && !resets_later {
            self.socket = None;
        }
    }

    fn note(&mut self, what: &str) {
        let (at, seen) = (self.began.elapsed(), &self.seen);
        let line = format!("{at:.3?} {what}: {} written, {} received", seen.written, seen.received);
        self.seen.transcript.push(line);
    }
}

/// Whether the pause still goes on; forgets one that is over.
fn is_pausing(pause: &mut Option<Instant>) -> bool {
    *pause = pause.filter(|until| *until > Instant::now());
    pause.is_some()
}
