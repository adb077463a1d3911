//! The kernel redirects what one socket receives into the other. Userspace hands the pair over at a moment when
//! no byte of it is in its hands, sleeps, and wakes for ends, errors, bytes that the kernel could not redirect, or a stop.

use std::io;
use std::net::TcpStream as Socket;
use std::time::{Duration, Instant};

use proxy_common::abi::credit::CEILING;
use proxy_common::abi::sockmap::{Direction, Place};
use proxy_common::flow::{Access, Gap, Leg, Reason, Seen, Sides};
use proxy_common::plan::Fallback;
use tokio::net::TcpStream;

use super::local::Bypass;
use super::local_slow_path::LocalSlowPath;
use super::slow_path::SlowPath;
use super::teardown::{Next, TeardownDriver, earlier};
use super::window::Window;
use super::{Carried, Pair, Watch, internal};
use crate::hub::{Bytes, Flow, Hub};
use crate::kernel::{Handle, Track};
use crate::sys;

/// ConnectionLimit in the send buffer for what is redirected within the credit: with four times as much the kernel's worker never
/// finds it full. It would sleep for a whole tick (4 ms at HZ=250) each time. Half of it, because the kernel doubles.
const SEND_BUFFER: usize = 32 << 20;

const _: () = assert!(2 * SEND_BUFFER as u64 == 4 * CEILING);

/// A pair that was not spliced. Nothing of it is consumed.
pub(super) struct Refused<'a> {
    pub(super) pair: Pair,
    pub(super) reason: Fallback,
    /// What the kernel still knows of the pair: to be dropped after it is closed.
    pub(super) trace: Option<Box<Trace<'a>>>,
}

/// See [`Refused::trace`].
pub(super) struct Trace<'a> {
    tracks: Sides<Track<'a>>,
    /// The upstream's socket is under the verdict, which passes all that it receives: bytes read from it before, and since when.
    upstream: Option<(u64, Instant)>,
}

impl Trace<'_> {
    /// Whether userspace may read the upstream's socket, see [`Gap`].
    pub(super) fn may_read_upstream(&self, gap: &mut Gap, socket: &TcpStream) -> io::Result<Access> {
        let Some((before, since)) = self.upstream else { return Ok(Access::Read) };
        let reading = sys::fresh_reading(socket)?;
        let received = reading.received.saturating_sub(before);
        Ok(gap.check(since.elapsed(), &reading, received, self.tracks.upstream.read().seen()))
    }
}

/// A pair in the kernel's hands.
pub(super) struct Spliced<'a> {
    watch: &'a Watch,
    legs: Sides<Leg>,
    /// None: closed already. Dropped before the tracks, since the verdict may hold a direction until then.
    sockets: Option<Sides<Socket>>,
    tracks: Sides<Track<'a>>,
    /// The server is on this host.
    bypass: Option<Bypass<'a>>,
}

/// Tries to hand `pair` over.
pub(super) fn take_over<'a>(
    handle: &'a Handle,
    watch: &'a Watch,
    flow: &Flow,
    pair: Pair,
    bypass: Option<Bypass<'a>>,
) -> Result<Spliced<'a>, Box<Refused<'a>>> {
    let (tracks, legs) = match enroll(handle, &pair, flow.copied()) {
        Ok(enrolled) => enrolled,
        Err((reason, trace)) => return Err(Box::new(Refused { pair, reason, trace })),
    };
    // From here on there is no way back: bytes may move at any moment.
    let sockets = match (pair.client.into_std(), pair.upstream.into_std()) {
        (Ok(client), Ok(upstream)) => Sides { client, upstream },
        (Err(error), _) | (_, Err(error)) => {
            // Cannot happen short of a broken runtime; the sockets are closed with a reset.
            tracing::error!(flow = flow.id, %error, "a socket cannot leave the runtime");
            return Ok(Spliced { watch, legs, sockets: None, tracks, bypass });
        }
    };
    Ok(Spliced { watch, legs, sockets: Some(sockets), tracks, bypass })
}

type Enrolled<'a> = (Sides<Track<'a>>, Sides<Leg>);

/// Why not, and what is left behind.
type NotEnrolled<'a> = (Fallback, Option<Box<Trace<'a>>>);

/// Puts both sockets under the verdict. The upstream socket goes first: bytes of the client may be queued already, and find
/// their target from the first moment on.
///
/// If the client socket is refused, the upstream socket stays where it is: taking it out would lose bytes that the
/// verdict has just passed. Its target is unknown to the map, so the verdict passes everything, and userspace reads it.
fn enroll<'a>(handle: &'a Handle, pair: &Pair, copied: Bytes) -> Result<Enrolled<'a>, NotEnrolled<'a>> {
    let prepared = prepare(Sides::new(&pair.client, &pair.upstream), copied);
    if !handle.is_attached() {
        return Err((Fallback::Unavailable, None));
    }
    let (Sides { client, upstream }, legs, open) = prepared.map_err(|_| (Fallback::SocketError, None))?;
    if !open {
        // The kernel takes established sockets only: one whose peer has ended already is carried by userspace.
        return Err((Fallback::HalfClosed, None));
    }
    let tracks = handle
        .track([Direction::new(client, upstream), Direction::new(upstream, client)])
        .map_err(|error| (refusal(&error), None))?;
    let tracks = Sides::from(tracks);
    if let Err(error) = handle.insert(upstream, &pair.upstream) {
        return Err((refusal(&error), Some(Box::new(Trace { tracks, upstream: None }))));
    }
    match handle.insert(client, &pair.client) {
        Ok(()) => Ok((tracks, legs)),
        Err(error) => {
            let [_, read] = copied;
            // Bytes that were queued before are to be counted, too. Best effort: a socket that cannot be asked is about to fail.
            let _ = sys::wake_when_readable(&pair.upstream, 1);
            let upstream = Some((read, Instant::now()));
            Err((refusal(&error), Some(Box::new(Trace { tracks, upstream }))))
        }
    }
}

fn refusal(error: &io::Error) -> Fallback {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC) => Fallback::MapFull,
        Some(libc::EOPNOTSUPP) => Fallback::HalfClosed,
        _ => Fallback::KernelRefused,
    }
}

/// `copied`: bytes that userspace has read from each socket before.
fn prepare(sockets: Sides<&TcpStream>, copied: Bytes) -> io::Result<(Sides<u64>, Sides<Leg>, bool)> {
    let Sides { client, upstream } = sockets;
    let readings = Sides::new(sys::exact_reading(client)?, sys::exact_reading(upstream)?);
    let open = readings.all(sys::is_established);
    let cookies = Sides::new(sys::cookie(client)?, sys::cookie(upstream)?);
    let [up, down] = copied;
    let legs = Sides::new(Leg::from_now(&readings.client, up), Leg::from_now(&readings.upstream, down));
    Ok((cookies, legs, open))
}

impl Spliced<'_> {
    /// Where to find what the verdict counts, client first.
    pub(super) fn places(&self) -> [Place; 2] {
        [self.tracks.client.place(), self.tracks.upstream.place()]
    }

    /// Carries the flow to its end.
    pub(super) async fn carry(&mut self, hub: &Hub, flow: &Flow) -> Carried {
        let mut teardown = TeardownDriver::new(&flow.config.timeouts, self.legs, true);
        let mut carried = match self.try_carry(hub, flow, &mut teardown).await {
            Ok(carried) => {
                if carried.end.reason == Reason::KernelLost {
                    tracing::warn!(
                        flow = flow.id,
                        "flow reset: something else has taken it out of our BPF map"
                    );
                }
                carried
            }
            Err(error) => internal(flow, teardown.bytes(), &error),
        };
        for (bytes, copied) in carried.bytes.iter_mut().zip(flow.copied()) {
            *bytes += copied;
        }
        carried
    }

    async fn try_carry(
        &mut self,
        hub: &Hub,
        flow: &Flow,
        teardown: &mut TeardownDriver,
    ) -> io::Result<Carried> {
        let Some(sockets) = &self.sockets else { return Err(io::ErrorKind::NotConnected.into()) };
        let sockets = sockets.each_ref();
        for socket in sockets {
            self.watch.add(socket, flow.id)?;
        }
        let windows = start(&self.tracks, sockets, self.bypass.is_some())?;
        if let Some(bypass) = &self.bypass {
            bypass.begin(&self.tracks);
        }
        let mut slow_path = SlowPath::new(&self.tracks, sockets, windows, self.watch, flow.id);
        // Boxed, since few flows have it.
        let mut local_slow_path = match &self.bypass {
            Some(_) => Some(Box::new(LocalSlowPath::new(&self.tracks, sockets)?)),
            None => None,
        };
        let mut stopped = false;
        loop {
            // First of all: a captured server is let go before it is sent anything.
            let look = match &mut self.bypass {
                Some(bypass) => bypass.turn(&self.tracks, sockets, teardown)?,
                None => None,
            };
            let held = Sides::of(|side| self.bypass.as_ref().is_some_and(|bypass| bypass.holds(side)));
            let mut again = earlier(look, slow_path.carry(teardown, held)?);
            if let Some(local_slow_path) = &mut local_slow_path {
                again = earlier(again, local_slow_path.carry(teardown)?);
            }
            teardown.execute(flow);
            if !stopped && hub.is_closing() {
                stopped = true;
                teardown.close();
            }
            let limit = match teardown.turn(sockets, || counts(&self.tracks))? {
                Next::Wait(limit) => earlier(limit, again),
                Next::Done(carried) => return Ok(carried),
            };
            flow.moved(teardown.rested());
            tokio::select! {
                () = flow.wake.notified() => {}
                () = sleep(limit) => {}
                () = teardown.idle(|| rested(flow, &self.tracks)) => {}
            }
        }
    }
}

/// Prepares the sockets and has the verdict look at bytes that were queued before.
fn start<'a>(
    tracks: &'a Sides<Track<'a>>,
    sockets: Sides<&'a Socket>,
    is_bypassed: bool,
) -> io::Result<Sides<Option<Window<'a>>>> {
    for socket in sockets {
        sys::force_send_buffer(socket, SEND_BUFFER)?;
        sys::limit_unsent(socket, u64::MAX)?;
    }
    let Sides { client, upstream } = sockets;
    let of_upstream = if is_bypassed { None } else { Some(Window::new(&tracks.upstream, upstream)?) };
    let windows = Sides::new(Some(Window::new(&tracks.client, client)?), of_upstream);
    for socket in sockets {
        sys::wake_when_readable(socket, 1)?;
    }
    Ok(windows)
}

impl Drop for Spliced<'_> {
    fn drop(&mut self) {
        if let Some(bypass) = &mut self.bypass {
            bypass.end(&self.tracks);
        }
    }
}

fn counts(tracks: &Sides<Track<'_>>) -> (Sides<Seen>, Sides<u64>) {
    let directions = tracks.each_ref().map(Track::read);
    (
        directions.each_ref().map(|direction| Seen::Bytes(direction.seen())),
        directions.each_ref().map(|direction| direction.beside),
    )
}

/// For how long no byte has moved, as far as the verdict tells, and what was learnt at turns: bytes beside it show there.
fn rested(flow: &Flow, tracks: &Sides<Track<'_>>) -> Duration {
    let tracks = tracks.each_ref().into_iter();
    tracks.fold(flow.rested(), |rested, track| rested.min(sys::since(track.read().active_ns)))
}

async fn sleep(limit: Option<Duration>) {
    match limit {
        // A timer that is over at once does not let the other flows run.
        Some(Duration::ZERO) => tokio::task::yield_now().await,
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
