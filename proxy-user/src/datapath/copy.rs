//! Userspace reads and writes: the datapath that always works, and the reference for all others.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy_common::flow::{Bounds, Leg, Seen, Vigil};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffers::Buffer;
use super::ending::{Ending, Next, readings};
use super::{Carried, Pair, internal};
use crate::hub::{Flow, Hub, Phase};
use crate::sys;

/// Buffers that one direction may move before the other flows of the worker get their turn.
const TURN: usize = 16;

/// Carries `pair` to its end.
pub(super) async fn carry(hub: &Hub, bounds: Bounds, flow: &Flow, pair: Pair) -> Carried {
    match try_carry(hub, bounds, flow, &pair).await {
        Ok(carried) => carried,
        Err(error) => internal(flow, flow.copied(), &error),
    }
}

async fn try_carry(hub: &Hub, bounds: Bounds, flow: &Flow, pair: &Pair) -> io::Result<Carried> {
    let sockets = [&pair.client, &pair.upstream];
    for socket in sockets {
        sys::reset_on_close(socket, true)?;
        // The peek may have asked for more at once than is ever to come.
        sys::wake_when_readable(socket, 1)?;
    }
    let vigil = Vigil::new(hub.snapshot.timeouts.keepalive, false);
    let mut ending = Ending::new(readings(sockets)?.each_ref().map(Leg::at), bounds, vigil);
    let [to_upstream, to_client] = &flow.copied;
    let mut up = std::pin::pin!(pump(&pair.client, &pair.upstream, to_upstream));
    let mut down = std::pin::pin!(pump(&pair.upstream, &pair.client, to_client));
    let mut stopping = std::pin::pin!(hub.phases.reached(Phase::Closing));
    // Whether a pump has come to its end, we have been told to stop, and a socket has failed.
    let (mut ended, mut stopped, mut broken) = ([false; 2], false, [false; 2]);
    let mut limit = None;
    loop {
        tokio::select! {
            () = &mut up, if !ended[0] => ended[0] = true,
            () = &mut down, if !ended[1] => ended[1] = true,
            // A pump that has ended, or that waits for its target, does not notice what becomes of its source.
            () = failed(&pair.client), if !broken[0] => broken[0] = true,
            () = failed(&pair.upstream), if !broken[1] => broken[1] = true,
            () = &mut stopping, if !stopped => {
                stopped = true;
                ending.close();
            }
            // Time to look whether the peers are still there.
            () = flow.wake.notified() => {}
            () = pause(limit) => {}
        }
        let taken = || {
            let [up, down] = flow.copied();
            ([seen(ended[0], broken[0], up), seen(ended[1], broken[1], down)], [0; 2])
        };
        match ending.turn(sockets, taken)? {
            Next::Wait(next) => limit = next,
            Next::Done(carried) => return Ok(carried),
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

/// Moves bytes until the source has no more, or the target takes no more. Which of the two, and how it came about, the
/// sockets tell better than the errors do.
async fn pump(source: &TcpStream, target: &TcpStream, moved: &AtomicU64) {
    while source.readable().await.is_ok() {
        let mut buffer = Buffer::take();
        for _ in 0..TURN {
            match source.try_read(buffer.bytes()) {
                Ok(0) => return,
                Ok(count) => {
                    let Some(bytes) = buffer.bytes().get(..count) else { return };
                    // A partial write: what is left over is lost with the target.
                    if write_all(target, bytes, moved).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        drop(buffer);
        tokio::task::yield_now().await;
    }
}

async fn write_all(target: &TcpStream, mut bytes: &[u8], moved: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.try_write(bytes) {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => target.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
