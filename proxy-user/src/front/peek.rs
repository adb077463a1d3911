//! Waiting for a ClientHello without taking a byte of it.

use std::io;

use proxy_common::hello::{HelloFailure, MaxHello, Opening, Verdict, inspect};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys;

/// The least that is looked at. Most hellos fit; larger ones cost another look.
const LEAST_LOOK: usize = 4 * 1024;

/// What a connection opened with, or why it cannot be routed.
type Opened = Result<Opening, HelloFailure>;

/// Looks at the start of the stream until it says what it is. Every byte stays in the socket. The caller bounds the time.
///
/// Between two looks the kernel wakes us only when so many bytes are there that another look can say more: a client that
/// sends byte by byte costs a few looks, not thousands. While it waits a connection has no memory here: its bytes are in the
/// kernel's buffer, of `max.peek()` bytes at most.
pub(super) async fn opening(stream: &TcpStream, max: MaxHello) -> io::Result<Opened> {
    let mut needed = 0;
    let opening = look_on(stream, max, &mut needed).await?;
    if needed > 0 {
        // More may have been asked for at once than is ever to come.
        sys::wake_when_readable(stream, 1)?;
    }
    Ok(opening)
}

/// `needed` becomes the number of bytes that the kernel is asked to wake us for.
async fn look_on(stream: &TcpStream, max: MaxHello, needed: &mut usize) -> io::Result<Opened> {
    loop {
        // Asked before the look: if the client had ended by then, the look shows all there will ever be.
        let ready = stream.ready(Interest::READABLE).await?;
        let result = stream.try_io(Interest::READABLE, || look(stream, max, needed));
        match result {
            Ok(opening) => return Ok(opening),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                // What came before a reset can still be looked at, so that the look does not tell a reset from an end.
                let was_reset = sys::error(stream).is_some();
                return Ok(Err(if was_reset { HelloFailure::Reset } else { HelloFailure::Eof }));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Err(HelloFailure::Reset));
            }
            Err(error) => return Err(error),
        }
    }
}

/// `WouldBlock`: nothing new can be said until more bytes are there. The runtime then waits for the next edge, which comes at
/// once if they are there already.
fn look(stream: &TcpStream, max: MaxHello, needed: &mut usize) -> io::Result<Opened> {
    let mut buffer = vec![0; LEAST_LOOK.max(*needed)];
    let seen = sys::peek(stream, &mut buffer)?;
    let mut looked = decide(buffer.get(..seen).unwrap_or_default(), max);
    let mut is_stopped = false;
    if matches!(looked, Looked::Needs(_)) {
        // There may be more behind an urgent mark, at which a look stops. To find out takes another system call.
        let count;
        (count, is_stopped) = sys::peek_past_marks(stream, &mut buffer, seen)?;
        if count > seen {
            looked = decide(buffer.get(..count).unwrap_or_default(), max);
        }
    }
    let need = match looked {
        Looked::Opened(opened) => return Ok(opened),
        Looked::Needs(need) => need,
    };
    if is_stopped {
        // The kernel would wake us for what it does not show, again and again.
        tracing::debug!("an urgent mark within the hello, which this kernel does not look past");
        return Ok(Err(HelloFailure::UrgentMark));
    }
    *needed = need;
    sys::wake_when_all_readable(stream, need)?;
    Err(io::ErrorKind::WouldBlock.into())
}

/// What the bytes say.
enum Looked {
    Opened(Opened),
    /// Nothing yet: another look is worth while once so many bytes are there.
    Needs(usize),
}

fn decide(bytes: &[u8], max: MaxHello) -> Looked {
    if bytes.is_empty() {
        return Looked::Opened(Err(HelloFailure::Eof));
    }
    Looked::Opened(match inspect(bytes, max) {
        Verdict::Hello(hello) => Ok(Opening::Hello(hello)),
        Verdict::NotTls => Ok(Opening::NotTls),
        Verdict::Unusable(failure) => {
            if let HelloFailure::Broken(defect) = failure {
                tracing::debug!(defect = defect.label(), "broken hello");
            }
            Err(failure)
        }
        Verdict::Incomplete { need } => return Looked::Needs(need),
    })
}
