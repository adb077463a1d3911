//! Plain TCP peers: a test holds both ends of a flow and says what each does next.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use socket2::SockRef;

use crate::deadline::{PATIENCE, wait_for};
use crate::keyed::{self, Keyed, read_some};
use crate::netns::{Namespace, set_patience};

/// A server whose connections the test accepts one by one.
#[derive(Debug)]
pub struct RawListener(TcpListener);

impl RawListener {
    /// Listens in a namespace.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        let listener = namespace.listen(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The next connection.
    ///
    /// # Errors
    /// When none comes within 10 s.
    #[track_caller]
    pub fn accept(&self) -> Result<TcpStream> {
        let accepted = wait_for("a connection at the backend", PATIENCE, || match self.0.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            answer => Some(answer),
        });
        let (stream, _) = accepted??;
        stream.set_nonblocking(false)?;
        set_patience(&stream)?;
        Ok(stream)
    }

    /// The next connection, if one comes within so long.
    ///
    /// # Errors
    /// When the listener fails.
    pub fn accept_within(&self, limit: Duration) -> Result<Option<TcpStream>> {
        let accepted = wait_for("a connection that may not come", limit, || match self.0.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            answer => Some(answer),
        });
        let Ok(accepted) = accepted else { return Ok(None) };
        let (stream, _) = accepted?;
        stream.set_nonblocking(false)?;
        set_patience(&stream)?;
        Ok(Some(stream))
    }

    /// The next connection, whose first bytes must be `hello`.
    ///
    /// # Errors
    /// When no connection comes, or when it begins with other bytes.
    #[track_caller]
    pub fn accept_after(&self, hello: &[u8]) -> Result<TcpStream> {
        let mut stream = self.accept()?;
        let mut received = vec![0; hello.len()];
        stream.read_exact(&mut received).context("reading the hello at the backend")?;
        ensure!(received == hello, "the backend got another hello than the client sent");
        Ok(stream)
    }

    /// Refuses connections from now on. Dropping the listener does the same a little later, since a process that
    /// another test is about to start may share the socket until it begins.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn stop(self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(Shutdown::Both)
    }

    /// True while no connection waits to be accepted.
    pub fn is_untouched(&self) -> bool {
        self.0.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// A write that waits this long waits for a reader.
const FULL: Duration = Duration::from_millis(500);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The peer sent FIN.
    Eof,
    /// The peer sent RST.
    Reset,
}

/// Reads to the end of the stream: how many bytes came, and how it ended.
///
/// # Errors
/// When nothing comes for 10 s.
pub fn read_to_ending(stream: &mut TcpStream) -> Result<(u64, Ending)> {
    let mut chunk = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match read_some(stream, &mut chunk) {
            Ok(0) => return Ok((bytes, Ending::Eof)),
            Ok(count) => bytes += count as u64,
            Err(error) if is_reset(&error) => return Ok((bytes, Ending::Reset)),
            Err(error) => bail!("no ending of the stream after {bytes} bytes: {error}"),
        }
    }
}

/// Waits for the stream to end, with no more bytes.
///
/// # Errors
/// When a byte comes, and when nothing happens for 10 s.
pub fn expect_ending(stream: &mut TcpStream, expected: Ending) -> Result<()> {
    let (bytes, ending) = read_to_ending(stream)?;
    ensure!(bytes == 0, "{bytes} bytes came where the stream should have ended");
    ensure!(ending == expected, "the stream ended with {ending:?} instead of {expected:?}");
    Ok(())
}

/// True when the peer reset the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Sends keyed data from one end of a flow to the other, which checks it.
///
/// # Errors
/// When an end fails or a byte is wrong.
pub fn transfer(from: &mut TcpStream, to: &mut TcpStream, stream: u64, bytes: u64) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| keyed::send(from, stream, bytes));
        keyed::receive(to, stream, bytes)?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")
    })
}

/// Writes until the buffers on the way are full, or `bound` is reached. Returns how much.
///
/// # Errors
/// When the connection breaks.
pub fn fill(stream: &mut TcpStream, bound: u64) -> Result<u64> {
    let mut keyed = Keyed::new(1);
    let mut chunk = vec![0; 64 * 1024];
    let (mut sent, mut at) = (0, chunk.len());
    stream.set_write_timeout(Some(FULL))?;
    while sent < bound {
        if at == chunk.len() {
            keyed.fill(&mut chunk);
            at = 0;
        }
        match stream.write(chunk.get(at..).unwrap_or_default()) {
            Ok(count) => {
                sent += count as u64;
                at += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(sent)
}

/// Sends FIN; the other direction stays open.
///
/// # Errors
/// When the connection is already gone.
pub fn finish(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)
}

/// Sends RST and drops what is still unsent.
///
/// # Errors
/// When the socket refuses the option.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}
