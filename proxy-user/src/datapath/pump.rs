//! One direction of a copied flow: through a buffer, or, while its bytes stream, through a pipe that the kernel moves pages
//! with.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proxy_common::flow::{Access, BulkDetector, Gap};
use tokio::io::Interest;
use tokio::net::TcpStream;
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
    pub(super) async fn run(self, source: &TcpStream) {
        let (mut bulk, mut gap) = (BulkDetector::default(), Gap::default());
        loop {
            self.resting.store(true, Ordering::Relaxed);
            if source.readable().await.is_err() {
                return;
            }
            self.resting.store(false, Ordering::Relaxed);
            let turn = match bulk.streams().then(Pipe::take).flatten() {
                Some(pipe) => self.splice(source, pipe, &mut bulk, &mut gap).await,
                None => self.copy(source, &mut bulk, &mut gap).await,
            };
            if turn.is_err() {
                return;
            }
        }
    }

    /// Copies until the queue is empty, or the direction proves to stream. Err: its end.
    async fn copy(&self, source: &TcpStream, bulk: &mut BulkDetector, gap: &mut Gap) -> Result<(), ()> {
        let mut buffer = Buffer::take();
        let mut turn = 0;
        loop {
            self.may_read(source, gap).await?;
            let (count, may_have_more) = match read(source, buffer.bytes()) {
                (Found::Bytes(count), may_have_more) => (count, may_have_more),
                (Found::Nothing | Found::Hidden, _) => {
                    gap.nothing_read();
                    return Ok(());
                }
                (Found::End, _) => return Err(()),
            };
            // A partial write: what is left over is lost with the target.
            self.write(buffer.bytes().get(..count).ok_or(())?).await.map_err(drop)?;
            self.flow.moved(Duration::ZERO);
            bulk.note(count);
            if !may_have_more || bulk.streams() {
                return Ok(());
            }
            self.give_way(&mut turn, count).await;
        }
    }

    /// Moves pages until the queue is empty. Err: the end of the direction.
    async fn splice(
        &self,
        source: &TcpStream,
        mut pipe: Pipe,
        bulk: &mut BulkDetector,
        gap: &mut Gap,
    ) -> Result<(), ()> {
        let mut turn = 0;
        while bulk.streams() {
            self.may_read(source, gap).await?;
            let count = match fill(source, &mut pipe) {
                Found::Bytes(count) => count,
                Found::Nothing => return Ok(()),
                Found::Hidden => {
                    *bulk = BulkDetector::default();
                    return Ok(());
                }
                Found::End => return Err(()),
            };
            self.drain(&mut pipe).await.map_err(drop)?;
            self.flow.moved(Duration::ZERO);
            bulk.note(count);
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
                // Boxed, as the other waits that few flows have: all others would keep room for them.
                Access::Wait(time) => Box::pin(tokio::time::sleep(time)).await,
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
                Box::pin(self.target.writable()).await.map(|()| 0)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads what is there. Says whether another read may find more at once. If not, the runtime knows that the queue is empty, without a
/// read that finds nothing; but not after a read that ended at an urgent mark, behind which bytes may have come long ago.
fn read(source: &TcpStream, buffer: &mut [u8]) -> (Found, bool) {
    let mut last = None;
    let read = source.try_io(Interest::READABLE, || {
        let (count, may_have_more) = sys::receive(source, buffer)?;
        if count == 0 || may_have_more {
            return Ok(count);
        }
        last = Some(count);
        // Taken for an empty queue, as it is now. Whatever came since brings an edge.
        Err(io::ErrorKind::WouldBlock.into())
    });
    last.map_or_else(|| (found(read), true), |count| (Found::Bytes(count), false))
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
