//! Userspace reads and writes: the datapath that always works, and the reference for all others.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_common::flow::{Leg, Seen};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::sync::Notify;

use super::buffers::Buffer;
use super::ending::{Ending, Next, earlier, readings};
use super::{Carried, Pair, internal};
use crate::hub::{Flow, Hub, Phase};
use crate::sys;

/// Buffers that one direction may move before the other flows of the worker get their turn.
const TURN: usize = 16;

/// While a direction waits for its target, how often the sockets are asked what has become of them: what the source's peer
/// does meanwhile, nobody tells.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a flow that was copied.
pub(super) enum Copied {
    /// It has ended.
    Ended(Carried),
    /// The time was up, and no byte of it is in our hands: another datapath may go on.
    Due,
}

/// Carries `pair` to its end, or until it has gone on for `due` and rests for a moment; if it does not, that is tried again
/// after the same time.
pub(super) async fn carry(hub: &Hub, flow: &Flow, pair: &mut Pair, due: Option<Duration>) -> Copied {
    match try_carry(hub, flow, pair, due).await {
        Ok(copied) => copied,
        Err(error) => Copied::Ended(internal(flow, flow.copied(), &error)),
    }
}

async fn try_carry(hub: &Hub, flow: &Flow, pair: &mut Pair, due: Option<Duration>) -> io::Result<Copied> {
    let (mut client, client_socket) = pair.client.split();
    let (mut upstream, upstream_socket) = pair.upstream.split();
    let sockets: [&TcpStream; 2] = [client_socket.as_ref(), upstream_socket.as_ref()];
    let mut ending = Ending::new(hub, readings(sockets)?.each_ref().map(Leg::at), false);
    for socket in sockets {
        // The peek may have asked for more at once than is ever to come.
        sys::wake_when_readable(socket, 1)?;
    }
    let [to_upstream, to_client] = &flow.copied;
    let (blocked, resting) = (Notify::new(), [AtomicBool::new(false), AtomicBool::new(false)]);
    let all_rest = || resting.iter().all(|resting| resting.load(Ordering::Relaxed));
    let mut up = std::pin::pin!(pump(&mut client, sockets[1], flow, to_upstream, (&resting[0], &blocked)));
    let mut down = std::pin::pin!(pump(&mut upstream, sockets[0], flow, to_client, (&resting[1], &blocked)));
    let mut stopping = std::pin::pin!(hub.phases.reached(Phase::Closing));
    let mut alarm = std::pin::pin!(pause(due));
    // Whether a pump has come to its end, we have been told to stop, and a socket has failed; when to look again.
    let (mut ended, mut stopped, mut broken, mut limit) = ([false; 2], false, [false; 2], None);
    loop {
        tokio::select! {
            () = &mut up, if !ended[0] => ended[0] = true,
            () = &mut down, if !ended[1] => ended[1] = true,
            // A pump that has ended, or that waits for its target, does not notice what becomes of its source.
            () = failed(sockets[0]), if !broken[0] => broken[0] = true,
            () = failed(sockets[1]), if !broken[1] => broken[1] = true,
            () = &mut stopping, if !stopped => {
                stopped = true;
                ending.close();
            }
            // Time to look whether the peers are still there.
            () = flow.wake.notified() => {}
            () = &mut alarm => {
                if !stopped && ended == [false; 2] && all_rest() {
                    return Ok(Copied::Due);
                }
                alarm.set(pause(due));
                continue;
            }
            () = blocked.notified() => {
                limit = earlier(limit, Some(LOOK));
                continue;
            }
            () = pause(limit) => {}
            () = ending.idle(|| flow.rested()) => {}
        }
        if super::packet::is_leaving(flow) {
            continue;
        }
        let taken = || {
            let [up, down] = flow.copied();
            ([seen(ended[0], broken[0], up), seen(ended[1], broken[1], down)], [0; 2])
        };
        match ending.turn(sockets, taken)? {
            Next::Wait(next) => limit = earlier(next, (!all_rest()).then_some(LOOK)),
            Next::Done(Carried { end, .. }) => {
                return Ok(Copied::Ended(Carried { end, bytes: flow.copied() }));
            }
        }
    }
}

async fn pause(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn seen(ended: bool, broken: bool, bytes: u64) -> Seen {
    match (ended, broken) {
        (true, _) => Seen::Bytes(bytes),
        (false, true) => Seen::Failed,
        (false, false) => Seen::Unknown,
    }
}

async fn failed(socket: &TcpStream) {
    let _ = socket.ready(Interest::ERROR).await;
}

/// What a pump tells of itself: that it rests, since the source was read to the end of its queue, to the last segment, and all
/// of that is written; and, by ringing, that the target takes no more for now.
type Telling<'a> = (&'a AtomicBool, &'a Notify);

/// Moves bytes until the source has no more, or the target takes no more. Which of the two, and how it came about, the
/// sockets tell better than the errors do.
async fn pump(
    source: &mut ReadHalf<'_>,
    target: &TcpStream,
    flow: &Flow,
    moved: &AtomicU64,
    (resting, blocked): Telling<'_>,
) {
    loop {
        resting.store(true, Ordering::Relaxed);
        if source.readable().await.is_err() {
            return;
        }
        resting.store(false, Ordering::Relaxed);
        let mut buffer = Buffer::take();
        for turn in 1.. {
            let count = match read_now(source, buffer.bytes()).await {
                None => break,
                Some(Ok(count)) if count > 0 => count,
                Some(_) => return,
            };
            let Some(bytes) = buffer.bytes().get(..count) else { return };
            // A partial write: what is left over is lost with the target.
            if write_all(target, bytes, moved, blocked).await.is_err() {
                return;
            }
            flow.moved(Duration::ZERO);
            if count < buffer.bytes().len() {
                // The queue was read to its end, which the runtime knows too: no need to ask once more.
                break;
            }
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Reads what is there. None: nothing, and the runtime will tell when there is. Unconstrained, since the runtime's budget for
/// a task would look like nothing, too.
async fn read_now(source: &mut ReadHalf<'_>, buffer: &mut [u8]) -> Option<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    tokio::task::unconstrained(std::future::poll_fn(|context: &mut Context<'_>| {
        Poll::Ready(match Pin::new(&mut *source).poll_read(context, &mut buffer) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => Some(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Some(Err(error)),
        })
    }))
    .await
}

async fn write_all(
    target: &TcpStream,
    mut bytes: &[u8],
    moved: &AtomicU64,
    blocked: &Notify,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.try_write(bytes) {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                blocked.notify_one();
                target.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
