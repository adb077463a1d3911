//! A server on this host that sends much is captured: its bytes then go straight into the client's socket, and skip the
//! loopback connection. All else is as with sockmap.
//!
//! While a server is captured its socket is not quite what it was: some kernels tell it that nothing can be read, whatever has
//! come. So it is captured only when it has read all that was sent to it, and it is let go before it is sent more.

use std::io;
use std::net::TcpStream as Socket;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use proxy_common::abi::local::Answer;
use proxy_common::abi::sockmap::Direction;
use proxy_common::flow::{Reading, Side, Sides};
use proxy_common::plan::Fallback;
use tokio::net::TcpStream;

use super::teardown::{TeardownDriver, readings};
use crate::kernel::{BackendLookup, FourTuple, Handle, Track};
use crate::sys;

/// A download that has come so far since something was sent up is one that will go on.
const LONG: u64 = 128 * 1024;

/// And at the most, after tries that did not pay: each costs a few wake-ups.
const LONGEST: u64 = 4 << 20;

/// A captured server that has sent nothing past the loopback for so long is let go.
const IDLE: Duration = Duration::from_millis(100);

/// The download of one flow.
pub(super) struct Bypass<'a> {
    lookup: &'a BackendLookup,
    ends: FourTuple,
    client: u64,
    captured: Option<Captured>,
    /// How far the download has to come before the next try.
    step: u64,
    next: u64,
}

struct Captured {
    /// Bytes past the loopback when it was captured, and at the last look.
    since: u64,
    beside: u64,
    looked: Instant,
}

impl<'a> Bypass<'a> {
    /// Err: the server cannot be captured, for this reason.
    pub(super) fn find(
        handle: &'a Handle,
        client: &TcpStream,
        upstream: &TcpStream,
    ) -> Result<Self, Fallback> {
        let lookup = handle.lookup().ok_or(Fallback::Unavailable)?;
        let ends = ends(upstream).map_err(|_| Fallback::SocketError)?;
        let answer = lookup.look(&ends).map_err(|_| Fallback::KernelRefused)?;
        if answer != Answer::Yes {
            return Err(Fallback::NotCaptured);
        }
        let client = sys::cookie(client).map_err(|_| Fallback::SocketError)?;
        Ok(Self { lookup, ends, client, captured: None, step: LONG, next: LONG })
    }

    /// Asks to be called when the download has become a long one.
    pub(super) fn begin(&self, tracks: &Sides<Track<'_>>) {
        tracks.upstream.call_at(self.next);
    }

    /// Captures or lets go, as it is time to. Some: come back after that time.
    pub(super) fn turn(
        &mut self,
        tracks: &Sides<Track<'_>>,
        sockets: Sides<&Socket>,
        teardown: &TeardownDriver,
    ) -> io::Result<Option<Duration>> {
        let Sides { client: up, upstream: down } = tracks.each_ref().map(Track::read);
        let Some(captured) = &mut self.captured else {
            if down.seen() >= self.next {
                self.try_capture(tracks, sockets, teardown)?;
            }
            return Ok(self.captured.as_ref().map(|_| IDLE));
        };
        let idle = captured.looked.elapsed() >= IDLE;
        let stale = idle && captured.beside == down.beside;
        if idle {
            (captured.beside, captured.looked) = (down.beside, Instant::now());
        }
        let left = IDLE.saturating_sub(captured.looked.elapsed());
        if stale || up.passed != up.taken || !readings(sockets)?.all(sys::is_established) {
            let gained = down.beside.saturating_sub(captured.since);
            self.let_go(tracks)?;
            // Where it did not pay it is tried more rarely.
            let step = if gained < LONG { self.step * 2 } else { LONG };
            self.ask_again(tracks, step.min(LONGEST));
            return Ok(None);
        }
        Ok(Some(left))
    }

    /// Whether bytes of that side are not for [`super::slow_path`] to carry: those of the client while the server is captured,
    /// which then is not to be sent anything, and those of the server at any time, see [`super::local_slow_path`].
    pub(super) fn holds(&self, side: Side) -> bool {
        side == Side::Upstream || self.captured.is_some()
    }

    fn try_capture(
        &mut self,
        tracks: &Sides<Track<'_>>,
        sockets: Sides<&Socket>,
        teardown: &TeardownDriver,
    ) -> io::Result<()> {
        // From here on nothing is sent up but by us.
        tracks.client.hold(true);
        fence(Ordering::SeqCst);
        let legs = readings(sockets)?;
        let upstream = &legs.upstream;
        let before = upstream.received.saturating_sub(teardown.received(Side::Upstream, upstream));
        if all_is_delivered(&tracks.client.read(), &legs, teardown)
            && self.lookup.capture(&self.ends, tracks.upstream.place(), self.client, before)? == Answer::Yes
        {
            let beside = tracks.upstream.read().beside;
            self.captured = Some(Captured { since: beside, beside, looked: Instant::now() });
            return Ok(());
        }
        tracks.client.hold(false);
        let step = (self.step * 2).min(LONGEST);
        self.ask_again(tracks, step);
        Ok(())
    }

    fn let_go(&mut self, tracks: &Sides<Track<'_>>) -> io::Result<()> {
        if self.captured.take().is_some() {
            self.lookup.release(tracks.upstream.place())?;
            tracks.client.hold(false);
        }
        Ok(())
    }

    fn ask_again(&mut self, tracks: &Sides<Track<'_>>, step: u64) {
        self.step = step;
        self.next = tracks.upstream.read().seen().saturating_add(step);
        tracks.upstream.call_at(self.next);
    }

    /// To be called once the flow has ended, while its sockets are open.
    pub(super) fn end(&mut self, tracks: &Sides<Track<'_>>) {
        if let Err(error) = self.let_go(tracks) {
            tracing::warn!(%error, "a server's socket is not let go before it is closed");
        }
    }
}

/// Whatever the client has sent has arrived at the server's socket. `up` was read after the sockets were.
fn all_is_delivered(up: &Direction, legs: &Sides<Reading>, teardown: &TeardownDriver) -> bool {
    let Sides { client, upstream } = legs;
    sys::is_established(client)
        && sys::is_established(upstream)
        && up.is_clean()
        && up.seen() == teardown.received(Side::Client, client)
        && up.seen() == teardown.written(Side::Upstream, upstream)
        && upstream.queued == 0
}

/// Of our connection to the server.
pub(super) fn ends(upstream: &TcpStream) -> io::Result<FourTuple> {
    Ok(FourTuple { near: upstream.local_addr()?, far: upstream.peer_addr()? })
}
