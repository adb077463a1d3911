//! Waiting for a ClientHello without taking a byte of it.

use std::io;

use proxy_common::hello::{ClientHello, MAX_PEEK, Verdict, inspect};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::hub::HelloResult;
use crate::sys;

/// Most hellos fit; larger ones cost a second look.
const FIRST_LOOK: usize = 4 * 1024;

/// What a connection opened with.
pub(super) enum Opening {
    /// A hello.
    Hello(ClientHello),
    /// Something that is not TLS.
    NotTls,
    /// Nothing that can be routed.
    Unusable(HelloResult),
}

/// Looks at the start of the stream until it says what it is. Every byte stays in the socket. The caller bounds the time.
///
/// Between two looks the kernel wakes us only when so many bytes are there that another look can say more: a client that
/// sends byte by byte costs a few looks, not thousands.
pub(super) async fn opening(stream: &TcpStream) -> io::Result<Opening> {
    let mut waits = false;
    let opening = look_on(stream, &mut waits).await?;
    if waits {
        // More may have been asked for at once than is ever to come.
        sys::wake_when_readable(stream, 1)?;
    }
    Ok(opening)
}

/// `waits` becomes true once the kernel is asked to wake us for so many bytes only.
async fn look_on(stream: &TcpStream, waits: &mut bool) -> io::Result<Opening> {
    let mut room = vec![0; FIRST_LOOK];
    loop {
        // Asked before the look: if the client had ended by then, the look shows all there will ever be.
        let ready = stream.ready(Interest::READABLE).await?;
        let result = stream.try_io(Interest::READABLE, || look(stream, &mut room, waits));
        match result {
            Ok(opening) => return Ok(opening),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                // What came before a reset can still be looked at, so that the look does not tell a reset from an end.
                let result = if sys::error(stream).is_some() { HelloResult::Reset } else { HelloResult::Eof };
                return Ok(Opening::Unusable(result));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Opening::Unusable(HelloResult::Reset));
            }
            Err(error) => return Err(error),
        }
    }
}

/// `WouldBlock`: nothing new can be said until more bytes are there. The runtime then waits for the next edge.
fn look(stream: &TcpStream, room: &mut Vec<u8>, waits: &mut bool) -> io::Result<Opening> {
    loop {
        let count = sys::peek(stream, room)?;
        let bytes = room.get(..count).unwrap_or_default();
        if count == 0 {
            return Ok(Opening::Unusable(HelloResult::Eof));
        }
        match inspect(bytes) {
            Verdict::Hello(hello) => return Ok(Opening::Hello(hello)),
            Verdict::NotTls => return Ok(Opening::NotTls),
            Verdict::Broken(defect) => {
                tracing::debug!(defect = defect.label(), "broken hello");
                return Ok(Opening::Unusable(HelloResult::Broken));
            }
            Verdict::TooLarge => return Ok(Opening::Unusable(HelloResult::TooLarge)),
            Verdict::Incomplete { .. } if count == room.len() && count < MAX_PEEK => {
                room.resize(MAX_PEEK, 0);
            }
            Verdict::Incomplete { need } => {
                *waits = true;
                sys::wake_when_readable(stream, need)?;
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }
}
