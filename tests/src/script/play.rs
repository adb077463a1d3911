//! Plays many flows at once in one thread.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::peer::{Peer, Wants};

/// A flow in play: its two peers, and where the server's end arrives.
pub(super) struct Pair<'a> {
    pub(super) client: Peer,
    pub(super) server: Peer,
    pub(super) listener: &'a TcpListener,
    /// Nobody will connect any more.
    pub(super) abandoned: bool,
}

impl Pair<'_> {
    fn is_done(&self) -> bool {
        self.client.is_done() && (self.server.is_done() || self.abandoned)
    }

    /// The client has gone before its connection was passed on.
    fn is_orphan(&self) -> bool {
        self.client.is_done() && !self.server.seen.connected
    }

    fn accept(&mut self) -> Result<()> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(self.server.start(stream, false)?),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// If it is a peer's turn, and what it waits for otherwise.
#[derive(Clone, Copy)]
struct Turn {
    ready: bool,
    wants: Wants,
}

/// Time between two questions whether the daemon has done with the clients that are gone.
const ASK: Duration = Duration::from_millis(20);

/// Plays all pairs to their ends. `is_idle` tells if the daemon has no connection left.
///
/// # Errors
/// When a flow has not ended after `limit`; the message says where its peers stand.
pub(super) fn play(pairs: &mut [Pair<'_>], limit: Duration, is_idle: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    let mut asked = began;
    let mut turns = vec![[Turn { ready: true, wants: Wants::default() }; 2]; pairs.len()];
    loop {
        for (pair, turns) in pairs.iter_mut().zip(&mut turns) {
            go_on(pair, turns)?;
        }
        if pairs.iter().all(Pair::is_done) {
            return Ok(());
        }
        if began.elapsed() > limit {
            let stuck: Vec<_> =
                pairs.iter().enumerate().filter(|(_, pair)| !pair.is_done()).map(place).collect();
            bail!("{} flows have not ended after {limit:?}: {stuck:#?}", stuck.len());
        }
        if asked.elapsed() > ASK && pairs.iter().all(|pair| pair.is_done() || pair.is_orphan()) {
            asked = Instant::now();
            if is_idle() {
                abandon(pairs)?;
            }
        }
        wait(pairs, &mut turns)?;
    }
}

fn place((number, pair): (usize, &Pair<'_>)) -> String {
    format!("flow {number}: client {}; server {}", pair.client.position(), pair.server.position())
}

/// Lets those peers act that can.
fn go_on(pair: &mut Pair<'_>, turns: &mut [Turn; 2]) -> Result<()> {
    if !pair.server.seen.connected && !pair.abandoned {
        pair.accept()?;
        turns[1].ready = true;
    }
    let now = Instant::now();
    for (peer, turn) in [&mut pair.client, &mut pair.server].into_iter().zip(turns) {
        if turn.ready || turn.wants.until.is_some_and(|until| until <= now) {
            turn.wants = peer.advance();
        }
    }
    Ok(())
}

/// The daemon has nothing left: who has not come by now does not come.
fn abandon(pairs: &mut [Pair<'_>]) -> Result<()> {
    for pair in pairs.iter_mut().filter(|pair| pair.is_orphan()) {
        pair.accept()?;
        pair.abandoned = !pair.server.seen.connected;
    }
    Ok(())
}

/// Sleeps until a peer can go on, and notes which.
fn wait(pairs: &[Pair<'_>], turns: &mut [[Turn; 2]]) -> Result<()> {
    let mut watched = Vec::new();
    let mut owners = Vec::new();
    let mut until = Instant::now() + ASK;
    for (pair, turns) in pairs.iter().zip(turns) {
        for (peer, turn) in [&pair.client, &pair.server].into_iter().zip(turns) {
            turn.ready = false;
            until = turn.wants.until.map_or(until, |at| at.min(until));
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, turn.wants.read);
            flags.set(PollFlags::OUT, turn.wants.write);
            if let Some(socket) = peer.socket().filter(|_| !flags.is_empty()) {
                watched.push(PollFd::new(socket, flags));
                owners.push(turn);
            }
        }
    }
    let peers = owners.len();
    for pair in pairs.iter().filter(|pair| !pair.server.seen.connected && !pair.abandoned) {
        watched.push(PollFd::new(pair.listener, PollFlags::IN));
    }
    let pause = until.saturating_duration_since(Instant::now());
    match poll(&mut watched, Some(&Timespec::try_from(pause)?)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    for (polled, turn) in watched.iter().take(peers).zip(owners) {
        turn.ready = !polled.revents().is_empty();
    }
    Ok(())
}
