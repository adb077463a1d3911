//! Does a splice carry bytes here as it should? Kernels of one version differ by backports, so behaviour is tried, on
//! loopback, rather than versions compared.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proxy_common::abi::sockmap::Direction;

use super::{Sockmap, Track};
use crate::sys;

/// Nothing on loopback takes this long, so what does is stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A sender that cannot write for this long is stopped.
const QUIET: Duration = Duration::from_millis(20);
/// Bytes that wait in the socket when it is spliced.
const EARLY: usize = 1_500;
/// Bytes that follow.
const LATER: usize = 1024 * 1024;
/// A send buffer that is full at once.
const SMALL: usize = 32 * 1024;
/// Credit where the sender is to be stopped.
pub(super) const CREDIT: usize = 64 * 1024;
/// What may be taken from a sender whose receiver does not read: credit, and the buffers of four sockets.
pub(super) const STALLED: usize = 64 * 1024 * 1024;

/// All of it.
pub(super) fn run(sockmap: &Sockmap) -> anyhow::Result<()> {
    carries_bytes(sockmap)?;
    stops_a_sender(sockmap).context("a receiver that does not read")
}

/// Bytes go both ways between two loopback connections: some that were queued before, many that come later, and an end.
fn carries_bytes(sockmap: &Sockmap) -> anyhow::Result<()> {
    let (mut client, ours) = pair().context("cannot open loopback connections")?;
    let (theirs, mut server) = pair().context("cannot open loopback connections")?;
    let before = sockmap.counters();
    let data = pattern(0, EARLY + LATER);
    let (early, later) = data.split_at(EARLY);

    client.write_all(early)?;
    let mut peeked = vec![0; EARLY];
    ensure!(peek_all(&ours, &mut peeked)? && peeked == early, "a peek does not show what was sent");
    let tracks = splice(sockmap, &ours, &theirs, STALLED).context("two sockets cannot be spliced")?;

    // The target's small buffer is full long before all is sent: kernels with a known bug then lose or repeat bytes.
    sys::force_send_buffer(&theirs, SMALL)?;
    client.write_all(later)?;
    let mut received = vec![0; data.len()];
    server.read_exact(&mut received).context("bytes do not arrive")?;
    ensure!(received == data, "bytes arrive changed");
    server.write_all(early)?;
    client.read_exact(&mut peeked).context("bytes do not arrive in the other direction")?;
    ensure!(peeked == early, "bytes arrive changed in the other direction");

    let after = sockmap.counters();
    let carried = after.redirected_bytes - before.redirected_bytes;
    ensure!(carried >= (data.len() + EARLY) as u64, "the kernel forwarded only {carried} bytes");
    let direction = tracks[0].read();
    ensure!(
        direction.redirected == data.len() as u64 && direction.passed == 0,
        "the counts are off: {direction:?}"
    );

    theirs.shutdown(Shutdown::Write)?;
    ensure!(server.read(&mut [0; 1])? == 0, "an end does not arrive as an end");
    drop((ours, theirs));
    drop(tracks);
    Ok(())
}

/// Where nobody reads, the sender must be stopped: the kernel's queue has no bound of its own. When the reader goes on, it
/// gets every byte, and the kernel takes over again.
fn stops_a_sender(sockmap: &Sockmap) -> anyhow::Result<()> {
    let (mut client, ours) = pair().context("cannot open loopback connections")?;
    let (theirs, mut server) = pair().context("cannot open loopback connections")?;
    let start = sys::reading(&theirs)?;
    let tracks = splice(sockmap, &ours, &theirs, CREDIT).context("two sockets cannot be spliced")?;
    // What the peers' own buffers hold shows nothing, and takes its time.
    sys::force_send_buffer(&client, SMALL)?;
    sys::force_receive_buffer(&server, SMALL)?;
    client.set_write_timeout(Some(QUIET))?;
    let mut sent = 0;
    while sent < STALLED {
        match client.write(&pattern(sent, CREDIT)) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(sent < STALLED, "{sent} bytes were taken from its sender");
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; sent];
        server.read_exact(&mut received).map(|()| (received == pattern(0, sent), server))
    });
    let stopped = tracks[0].read();
    ensure!(stopped.passed > 0, "no bytes were left to userspace");
    carry_passed(&tracks[0], (&ours, &theirs), start.acked + start.queued, sent as u64)?;
    let (same, mut server) = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(same, "bytes arrive changed");

    client.write_all(b"x")?;
    server.read_exact(&mut [0; 1])?;
    let resumed = tracks[0].read();
    ensure!(resumed.seen() == sent as u64 + 1, "the counts are off: {resumed:?}");
    ensure!(resumed.redirected > stopped.redirected, "the kernel does not go on: {resumed:?}");
    drop((ours, theirs));
    drop(tracks);
    Ok(())
}

/// Does what the datapath does with bytes that the verdict passed, until `all` that were sent are on their way.
pub(super) fn carry_passed(
    track: &Track<'_>,
    (mut source, mut target): (&TcpStream, &TcpStream),
    zero: u64,
    all: u64,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (mut buffer, mut written) = (vec![0; CREDIT], 0);
    source.set_nonblocking(true)?;
    loop {
        ensure!(begun.elapsed() < PATIENCE, "it takes too long");
        let direction = track.read();
        let queue = sys::reading(target)?;
        let in_order = queue.acked + queue.queued - zero >= direction.redirected + direction.beside + written;
        if direction.seen() == all && direction.passed == written {
            return Ok(());
        }
        if !in_order {
            std::thread::yield_now();
            continue;
        }
        match source.read(&mut buffer) {
            Ok(count) => {
                target.write_all(buffer.get(..count).unwrap_or_default())?;
                written += count as u64;
                track.set_taken(written);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// `len` bytes of a stream, from position `from` on: lost, repeated and swapped bytes show.
pub(super) fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|position| u8::try_from(position % 251).unwrap_or(0)).collect()
}

pub(super) fn splice<'a>(
    sockmap: &'a Sockmap,
    client: &TcpStream,
    upstream: &TcpStream,
    credit: usize,
) -> std::io::Result<[Track<'a>; 2]> {
    let handle = sockmap.handle_ref();
    let cookies = [sys::cookie(client)?, sys::cookie(upstream)?];
    let (credit, [near, far]) = (credit as u64, cookies);
    let tracks = handle.track([
        Direction::with_credit(near, far, credit, credit),
        Direction::with_credit(far, near, credit, credit),
    ])?;
    handle.insert(far, upstream)?;
    handle.insert(near, client)?;
    sys::wake_when_readable(upstream, 1)?;
    sys::wake_when_readable(client, 1)?;
    Ok(tracks)
}

pub(super) fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let near = TcpStream::connect_timeout(&address, PATIENCE)?;
    loop {
        // Another process may connect to the port in between.
        let (far, peer) = listener.accept()?;
        if peer == near.local_addr()? {
            for socket in [&near, &far] {
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.set_nodelay(true)?;
            }
            return Ok((near, far));
        }
    }
}

fn peek_all(socket: &TcpStream, buffer: &mut [u8]) -> std::io::Result<bool> {
    sys::wake_when_readable(socket, buffer.len())?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        // With the low-water mark set this blocks until all of it is there.
        if socket.peek(buffer)? == buffer.len() {
            return Ok(true);
        }
    }
    Ok(false)
}
