//! Can servers on this host be captured, and would they notice? Tried on loopback, as the sockmap self-test is.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use proxy_common::abi::local::Answer;

use super::selftest::{CREDIT, PATIENCE, STALLED, carry_passed, pair, pattern, splice};
use super::{BackendLookup, FourTuple, Sockmap, Track};
use crate::sys;

/// Servers on this host can be captured.
#[derive(Debug)]
pub(crate) struct Local {
    /// Why that is done only for upstreams whose configuration names it: some servers would notice. None: none would.
    pub(crate) noticed: Option<String>,
}

/// Bytes of a download.
const BULK: usize = 1024 * 1024;
/// Bytes that a server is sent while it is captured.
const FEW: usize = 777;
/// How long a call that has to wait is watched.
const WATCHED: Duration = Duration::from_millis(20);

/// One flow: a client, our two sockets, and a server that was accepted from our connection.
struct Scene<'a> {
    client: TcpStream,
    ours: [TcpStream; 2],
    server: TcpStream,
    tracks: [Track<'a>; 2],
    lookup: &'a BackendLookup,
    ends: FourTuple,
    client_cookie: u64,
}

/// All of it.
pub(super) fn run(sockmap: &Sockmap) -> anyhow::Result<Local> {
    let scene = Scene::new(sockmap, STALLED)?;
    let scene = carries_a_download(scene)?;
    let scene = is_not_captured_with_unread_bytes(scene)?;
    ends_in_order(&scene)?;
    stops_a_server(&Scene::new(sockmap, CREDIT)?).context("a client that does not read")?;
    Ok(Local { noticed: noticed(Scene::new(sockmap, STALLED)?)? })
}

impl<'a> Scene<'a> {
    fn new(sockmap: &'a Sockmap, credit: usize) -> anyhow::Result<Self> {
        let (client, ours) = pair().context("cannot open loopback connections")?;
        let (theirs, server) = pair().context("cannot open loopback connections")?;
        let tracks = splice(sockmap, &ours, &theirs, credit).context("two sockets cannot be spliced")?;
        let lookup = sockmap.handle_ref().lookup().context("the programs are not loaded")?;
        let ends = FourTuple { near: theirs.local_addr()?, far: theirs.peer_addr()? };
        let client_cookie = sys::cookie(&ours)?;
        let scene = Self { client, ours: [ours, theirs], server, tracks, lookup, ends, client_cookie };
        ensure!(scene.lookup.look(&scene.ends)? == Answer::Yes, "the server's socket is not found");
        // The first bytes go the ordinary way, and show where the stream begins.
        scene.download(0, FEW)?;
        Ok(scene)
    }

    fn capture(&self) -> anyhow::Result<Answer> {
        Ok(self.lookup.capture(&self.ends, self.tracks[1].place(), self.client_cookie, 0)?)
    }

    /// What the daemon has to wait for before it captures: the server has nothing on its way.
    fn captured(&self) -> anyhow::Result<()> {
        let answer = self.capture()?;
        ensure!(answer == Answer::Yes, "the server's socket cannot be captured: {answer:?}");
        Ok(())
    }

    fn release(&self) -> anyhow::Result<()> {
        Ok(self.lookup.release(self.tracks[1].place())?)
    }

    fn beside(&self) -> u64 {
        self.tracks[1].read().beside
    }

    fn download(&self, from: usize, len: usize) -> anyhow::Result<()> {
        let (mut server, mut received) = (&self.server, vec![0; len]);
        thread::scope(|scope| {
            let sender = scope.spawn(move || server.write_all(&pattern(from, len)));
            (&self.client).read_exact(&mut received).context("bytes of the server do not arrive")?;
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            ensure!(received == pattern(from, len), "bytes of the server arrive changed");
            Ok(())
        })
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// What a captured server sends arrives, and none of it takes the loopback connection.
fn carries_a_download(scene: Scene<'_>) -> anyhow::Result<Scene<'_>> {
    scene.captured()?;
    scene.download(FEW, BULK)?;
    ensure!(scene.beside() == BULK as u64, "{} of {BULK} bytes went past the loopback", scene.beside());
    scene.release()?;
    scene.download(FEW + BULK, BULK)?;
    ensure!(scene.beside() == BULK as u64, "a server that was let go is still captured");
    Ok(scene)
}

/// A server with bytes to read is left alone: on kernels with a known bug it could not ask how many they are.
fn is_not_captured_with_unread_bytes(scene: Scene<'_>) -> anyhow::Result<Scene<'_>> {
    (&scene.client).write_all(&pattern(0, FEW))?;
    let mut bytes = [0; FEW];
    sys::wake_when_readable(&scene.server, FEW)?;
    ensure!(scene.server.peek(&mut bytes)? == FEW, "bytes of the client do not arrive");
    sys::wake_when_readable(&scene.server, 1)?;
    let answer = scene.capture()?;
    ensure!(answer == Answer::Unread, "unread bytes are not seen: {answer:?}");
    (&scene.server).read_exact(&mut bytes)?;
    scene.captured()?;
    Ok(scene)
}

/// The end of the stream arrives after its last byte, and the counts say when that is.
fn ends_in_order(scene: &Scene<'_>) -> anyhow::Result<()> {
    scene.download(0, BULK)?;
    scene.server.shutdown(Shutdown::Write)?;
    let Scene { client, ours: [ours, theirs], .. } = scene;
    ensure!((&*theirs).read(&mut [0; 1])? == 0, "an end does not arrive as an end");
    let (received, direction) = (sys::reading(theirs)?.received - 1, scene.tracks[1].read());
    let written = sys::reading(ours)?;
    let (written, all) = (written.acked + written.queued, received + direction.beside);
    ensure!(written == all, "the counts are off: {written} bytes of {all}");
    ours.shutdown(Shutdown::Write)?;
    ensure!((&*client).read(&mut [0; 1])? == 0, "an end is not passed on");
    Ok(())
}

/// A server whose client does not read is stopped by its own socket, as it would be without us. When the client goes on, it
/// gets every byte, and the server's go past the loopback again.
fn stops_a_server(scene: &Scene<'_>) -> anyhow::Result<()> {
    let Scene { client, ours: [ours, theirs], server, tracks: [_, track], .. } = scene;
    let start = sys::reading(ours)?;
    scene.captured()?;
    server.set_nonblocking(true)?;
    let mut sent = FEW;
    while sent < STALLED {
        match (&*server).write(&pattern(sent, CREDIT)) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    server.set_nonblocking(false)?;
    ensure!(sent < STALLED, "{sent} bytes were taken from the server");
    ensure!(sys::reading(server)?.queued > 0, "the server is stopped by a socket that is not its own");
    let beside = scene.beside();
    ensure!(beside > 0, "nothing went past the loopback");
    let mut received = vec![0; sent - FEW];
    thread::scope(|scope| {
        let reader = scope.spawn(|| (&*client).read_exact(&mut received));
        let zero = start.acked + start.queued - FEW as u64;
        carry_passed(track, (theirs, ours), zero, sent as u64 - beside)?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        anyhow::Ok(())
    })?;
    ensure!(received == pattern(FEW, sent - FEW), "bytes of the server arrive changed");
    let begun = Instant::now();
    while sys::reading(ours)?.queued > 0 {
        ensure!(begun.elapsed() < PATIENCE, "the client does not acknowledge what it has read");
        thread::yield_now();
    }
    // After a call that took a part only, Linux 6.18 does not ask the program about the next one.
    scene.download(sent, FEW)?;
    scene.download(sent + FEW, FEW)?;
    ensure!(scene.beside() > beside, "the server's bytes do not go past the loopback again");
    Ok(())
}

/// A thread that waits in a read is woken for nothing when another one closes the stream for writing. A kernel that then
/// ends the read with "try again" breaks servers that wait by reading. Says so.
fn noticed(scene: Scene<'_>) -> anyhow::Result<Option<String>> {
    scene.captured()?;
    let mut reader = scene.server.try_clone()?;
    reader.set_read_timeout(None)?;
    let (tell, told) = channel();
    let waiting = thread::spawn(move || {
        let outcome = reader.read(&mut [0; 1]);
        let _ = tell.send(outcome.err().map(|error| error.kind()));
    });
    let begun = Instant::now();
    let mut outcome = None;
    while begun.elapsed() < WATCHED && outcome.is_none() {
        scene.server.shutdown(Shutdown::Write)?;
        outcome = told.recv_timeout(WATCHED / 10).ok();
    }
    drop(scene);
    waiting.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    Ok(match outcome {
        None => None,
        Some(Some(ErrorKind::WouldBlock)) => Some(
            "on this kernel a blocking read in the server can fail with EAGAIN; set datapath = \"local\" only for servers that \
             wait by epoll"
                .to_owned(),
        ),
        Some(other) => bail!("a read that has to wait ends with {other:?}"),
    })
}
