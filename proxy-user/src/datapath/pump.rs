//! One direction of a copied flow: through a buffer, or, while its bytes stream, through a pipe that the kernel moves pages
//! with.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_common::flow::{Access, Gap, Streak};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::sync::Notify;

use super::buffers::Buffer;
use super::pipes::Pipe;
use super::sockmap::Trace;
use crate::hub::Flow;
use crate::sys;

/// Bytes that one direction may move before the other flows of the worker get their turn.
const TURN: usize = 4 * 1024 * 1024;

/// What a direction has in its hands, and what others see of it.
pub(super) struct Pump<'a> {
    pub(super) flow: &'a Flow,
    pub(super) target: &'a TcpStream,
    /// Bytes written to the target.
    pub(super) moved: &'a AtomicU64,
    /// True while the source was read to the end of its queue, and all of that is written.
    pub(super) resting: &'a AtomicBool,
    /// Rung when the target takes no more for now.
    pub(super) blocked: &'a Notify,
    /// The source is under it.
    pub(super) verdict: Option<&'a Verdict<'a>>,
}

/// The verdict that the upstream's socket is under, of a flow whose other socket the kernel did not take.
pub(super) struct Verdict<'a> {
    pub(super) trace: &'a Trace<'a>,
    /// Bytes are gone.
    pub(super) lost: AtomicBool,
}

impl Verdict<'_> {
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What a turn found in the source.
enum Found {
    Bytes(usize),
    /// Nothing, and the runtime will tell when there is.
    Nothing,
    /// Bytes that only a read brings: a foreign BPF program has put the socket under a verdict, whose queue `splice` does not
    /// see (Linux 6.18). Or they have come this very moment.
    Hidden,
    /// Its end, or an error. Which of the two, and how it came about, the sockets tell better than the errors do.
    End,
}

impl Pump<'_> {
    /// Moves bytes until the source has no more, or the target takes no more.
    pub(super) async fn run(self, source: &mut ReadHalf<'_>) {
        let (mut streak, mut gap) = (Streak::default(), Gap::default());
        loop {
            self.resting.store(true, Ordering::Relaxed);
            if source.readable().await.is_err() {
                return;
            }
            self.resting.store(false, Ordering::Relaxed);
            let turn = match streak.streams().then(Pipe::take).flatten() {
                Some(pipe) => self.splice(source, pipe, &mut streak, &mut gap).await,
                None => self.copy(source, &mut streak, &mut gap).await,
            };
            if turn.is_err() {
                return;
            }
        }
    }

    /// Copies until the queue is empty, or the direction proves to stream. Err: its end.
    async fn copy(&self, source: &mut ReadHalf<'_>, streak: &mut Streak, gap: &mut Gap) -> Result<(), ()> {
        let mut buffer = Buffer::take();
        let (mut turn, mut is_unnoticed) = (0, false);
        loop {
            self.may_read(source.as_ref(), gap).await?;
            let count = match read_on(source, buffer.bytes(), &mut is_unnoticed).await {
                Found::Bytes(count) => count,
                Found::Nothing | Found::Hidden => {
                    gap.nothing_read();
                    return Ok(());
                }
                Found::End => return Err(()),
            };
            // A partial write: what is left over is lost with the target.
            self.write(buffer.bytes().get(..count).ok_or(())?).await.map_err(drop)?;
            self.flow.moved(Duration::ZERO);
            streak.note(count);
            if count < buffer.bytes().len() || (streak.streams() && !is_unnoticed) {
                // A short read: the queue is empty, which the runtime knows too. No need to ask once more.
                return Ok(());
            }
            self.give_way(&mut turn, count).await;
        }
    }

    /// Moves pages until the queue is empty. Err: the end of the direction.
    async fn splice(
        &self,
        source: &ReadHalf<'_>,
        mut pipe: Pipe,
        streak: &mut Streak,
        gap: &mut Gap,
    ) -> Result<(), ()> {
        let mut turn = 0;
        while streak.streams() {
            self.may_read(source.as_ref(), gap).await?;
            let count = match fill(source.as_ref(), &mut pipe) {
                Found::Bytes(count) => count,
                Found::Nothing => return Ok(()),
                Found::Hidden => {
                    *streak = Streak::default();
                    return Ok(());
                }
                Found::End => return Err(()),
            };
            self.drain(&mut pipe).await.map_err(drop)?;
            self.flow.moved(Duration::ZERO);
            streak.note(count);
            self.give_way(&mut turn, count).await;
        }
        Ok(())
    }

    /// Waits until the source may be read. Err: never.
    async fn may_read(&self, source: &TcpStream, gap: &mut Gap) -> Result<(), ()> {
        let Some(verdict) = self.verdict else { return Ok(()) };
        loop {
            match verdict.trace.may_read_upstream(gap, source).map_err(drop)? {
                Access::Read => return Ok(()),
                Access::Wait(time) => tokio::time::sleep(time).await,
                Access::Lost => {
                    verdict.lost.store(true, Ordering::Relaxed);
                    return Err(());
                }
            }
        }
    }

    async fn give_way(&self, turn: &mut usize, count: usize) {
        *turn += count;
        if *turn >= TURN {
            *turn = 0;
            tokio::task::yield_now().await;
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.target.try_write(bytes);
            let count = self.settle(written).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn drain(&self, pipe: &mut Pipe) -> io::Result<()> {
        while pipe.held() > 0 {
            let written = self.target.try_io(Interest::WRITABLE, || pipe.drain(self.target));
            self.settle(written).await?;
        }
        Ok(())
    }

    /// Counts what was written, or waits until the target takes more.
    async fn settle(&self, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(count) => {
                self.moved.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked.notify_one();
                self.target.writable().await.map(|()| 0)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads what is there, also beyond an urgent mark: a read ends at it. The runtime takes that for the end of the queue, and
/// would wait for an edge that has come already. `is_unnoticed`: there may be more than was read, of which the runtime does not know;
/// then it must not be asked.
async fn read_on(source: &mut ReadHalf<'_>, buffer: &mut [u8], is_unnoticed: &mut bool) -> Found {
    let mut read = if *is_unnoticed {
        found(sys::read(source.as_ref(), buffer))
    } else {
        read_now(source, buffer).await
    };
    while let Found::Bytes(count) = read
        && let Some(room) = buffer.get_mut(count..).filter(|room| !room.is_empty())
        && sys::is_at_mark(source.as_ref())
    {
        match sys::read(source.as_ref(), room) {
            Ok(more) if more > 0 => (read, *is_unnoticed) = (Found::Bytes(count + more), true),
            // The end, an error, or nothing yet: the runtime has an edge to tell.
            _ => break,
        }
    }
    // A short read has emptied the queue: what comes later brings an edge.
    *is_unnoticed &= matches!(read, Found::Bytes(count) if count == buffer.len());
    read
}

/// Reads what is there. Unconstrained, since the runtime's budget for a task would look like nothing, too.
async fn read_now(source: &mut ReadHalf<'_>, buffer: &mut [u8]) -> Found {
    let mut buffer = ReadBuf::new(buffer);
    tokio::task::unconstrained(std::future::poll_fn(|context: &mut Context<'_>| {
        Poll::Ready(match Pin::new(&mut *source).poll_read(context, &mut buffer) {
            Poll::Pending => Found::Nothing,
            Poll::Ready(Ok(())) => found(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => found(Err(error)),
        })
    }))
    .await
}

fn fill(source: &TcpStream, pipe: &mut Pipe) -> Found {
    let mut hidden = false;
    let filled = source.try_io(Interest::READABLE, || {
        let filled = pipe.fill(source);
        let is_empty = match &filled {
            Ok(count) => *count == 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if !is_empty {
            return filled;
        }
        // Taken at its word, this would be the end of the stream, or a wait for an edge that has come already: be sure.
        let count = sys::peek(source, &mut [0])?;
        hidden = count > 0;
        Ok(count)
    });
    if hidden { Found::Hidden } else { found(filled) }
}

fn found(result: io::Result<usize>) -> Found {
    match result {
        Ok(0) => Found::End,
        Ok(count) => Found::Bytes(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Found::Nothing,
        Err(_) => Found::End,
    }
}
