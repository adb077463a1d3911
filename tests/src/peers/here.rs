//! Servers on the daemon's own host, each of another kind: what a datapath that touches a server's socket must not break.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{Timespec, epoll};
use rustix::io::ioctl_fionread;
use rustix::pipe::{SpliceFlags, pipe, splice};

use crate::deadline::PATIENCE;
use crate::keyed::{self, Keyed};

/// Bytes of one request: the number of bytes that are asked for.
pub const REQUEST: usize = 8;

/// Bytes per write.
const CHUNK: usize = 256 * 1024;

/// How a server waits, and how it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its thread waits in reads and writes.
    Blocking,
    /// It waits for changes of readiness only: one that it is not told of is waited for in vain.
    EdgeTriggered,
    /// It waits for readiness.
    LevelTriggered,
    /// It looks before it reads.
    Peeks,
    /// It asks how many bytes there are, and reads as many.
    AsksForLength,
    /// It lets the kernel move what it receives into a pipe.
    Splices,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Blocking,
        Self::EdgeTriggered,
        Self::LevelTriggered,
        Self::Peeks,
        Self::AsksForLength,
        Self::Splices,
    ];
}

/// Answers each request with as many bytes as it asks for, each answer being the next part of the stream `stream`. Ends its
/// own stream after the client has.
///
/// # Errors
/// When the connection fails, or readiness is waited for in vain.
pub fn serve(kind: Kind, stream: &TcpStream, keyed: u64) -> Result<()> {
    let mut peer = Peer::new(kind, stream)?;
    let mut data = Keyed::new(keyed);
    let mut chunk = vec![0; CHUNK];
    while let Some(request) = peer.request()? {
        let mut left = request;
        while left > 0 {
            let (now, _) = chunk.split_at_mut(usize::try_from(left).unwrap_or(CHUNK).min(CHUNK));
            data.fill(now);
            peer.send(now)?;
            left -= now.len() as u64;
        }
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

/// Asks a server for `bytes` more bytes, and checks them.
///
/// # Errors
/// When the connection fails or a byte is wrong.
pub fn ask(client: &mut TcpStream, data: &mut Keyed, bytes: u64) -> Result<()> {
    client.write_all(&bytes.to_be_bytes())?;
    keyed::receive_on(client, data, bytes)
}

struct Peer<'a> {
    kind: Kind,
    stream: &'a TcpStream,
    ready: Option<OwnedFd>,
    pipe: (OwnedFd, OwnedFd),
}

impl<'a> Peer<'a> {
    fn new(kind: Kind, stream: &'a TcpStream) -> Result<Self> {
        let ready = match kind {
            Kind::Blocking | Kind::Peeks | Kind::Splices => None,
            Kind::EdgeTriggered | Kind::LevelTriggered | Kind::AsksForLength => {
                stream.set_nonblocking(true)?;
                Some(epoll::create(epoll::CreateFlags::CLOEXEC)?)
            }
        };
        if let Some(ready) = &ready {
            epoll::add(ready, stream, epoll::EventData::new_u64(0), interest(kind, Interest::Read))?;
        }
        Ok(Self { kind, stream, ready, pipe: pipe()? })
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.split_at(count).1,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(Interest::Write)?,
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(())
    }

    /// None: the client has ended its stream.
    fn request(&mut self) -> Result<Option<u64>> {
        let (mut request, mut filled) = ([0; REQUEST], 0);
        while filled < REQUEST {
            let count = match self.read(request.split_at_mut(filled).1) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(Interest::Read)?;
                    continue;
                }
                answer => answer.context("reading a request")?,
            };
            if count == 0 {
                ensure!(filled == 0, "the stream ends within a request");
                return Ok(None);
            }
            filled += count;
        }
        Ok(Some(u64::from_be_bytes(request)))
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        match self.kind {
            Kind::Blocking | Kind::EdgeTriggered | Kind::LevelTriggered => stream.read(room),
            Kind::Peeks => {
                let there = stream.peek(room)?;
                let (room, _) = room.split_at_mut(there);
                if room.is_empty() { Ok(0) } else { stream.read(room) }
            }
            Kind::AsksForLength => {
                let there = usize::try_from(ioctl_fionread(stream)?).unwrap_or(0);
                if there == 0 {
                    return nothing_to_read(stream);
                }
                let (room, _) = room.split_at_mut(there.min(room.len()));
                stream.read(room)
            }
            Kind::Splices => {
                let (from, to) = &self.pipe;
                let count = splice(stream, None, to, None, room.len(), SpliceFlags::empty())?;
                let (room, _) = room.split_at_mut(count);
                if room.is_empty() { Ok(0) } else { Ok(rustix::io::read(from, room)?) }
            }
        }
    }

    fn wait(&mut self, wanted: Interest) -> Result<()> {
        let ready = self.ready.as_ref().context("a call that has to wait has not waited")?;
        if self.kind != Kind::EdgeTriggered {
            epoll::modify(ready, self.stream, epoll::EventData::new_u64(0), interest(self.kind, wanted))?;
        }
        let mut room = [MaybeUninit::uninit(); 1];
        let limit = Timespec::try_from(PATIENCE).context("a limit")?;
        let (events, _) = epoll::wait(ready, &mut room, Some(&limit))?;
        ensure!(!events.is_empty(), "{:?} is waited for in vain", wanted);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    Read,
    Write,
}

fn interest(kind: Kind, wanted: Interest) -> epoll::EventFlags {
    match (kind, wanted) {
        (Kind::EdgeTriggered, _) => {
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET
        }
        (_, Interest::Read) => epoll::EventFlags::IN,
        (_, Interest::Write) => epoll::EventFlags::OUT,
    }
}

/// What a server makes of it that no byte can be read: it is the end, or there are none yet.
fn nothing_to_read(stream: &TcpStream) -> io::Result<usize> {
    if stream.peek(&mut [0])? == 0 {
        return Ok(0);
    }
    if ioctl_fionread(stream)? == 0 {
        return Err(io::Error::other("bytes can be read that the kernel does not count"));
    }
    // They have just come.
    Err(ErrorKind::Interrupted.into())
}
