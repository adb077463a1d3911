//! Userspace reads and writes: the datapath that always works, and the reference for all others.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxy_common::flow::{Leg, Seen, Side, Sides};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::pump::{Pump, Verdict};
use super::sockmap::Trace;
use super::teardown::{Next, TeardownDriver};
use super::{Carried, internal};
use crate::hub::{Flow, Hub};
use crate::sys;

/// While a direction waits for its target, how often the sockets are asked what has become of them: what the source's peer
/// does meanwhile, nobody tells.
const LOOK: Duration = Duration::from_secs(1);

/// When another datapath may go on with a flow. Where it does not rest at that moment, that is tried again after [`LOOK`].
#[derive(Clone, Copy)]
pub(super) enum Due<'a> {
    Never,
    /// From this moment on.
    At(Instant),
    /// As soon as this is rung.
    Rung(&'a Notify),
}

/// What became of a flow that was copied.
pub(super) enum Copied {
    /// It has ended.
    Ended(Carried),
    /// The time was up, and no byte of it is in our hands: another datapath may go on.
    Due,
}

/// Carries a pair of sockets to its end, or until another datapath may go on and it rests for a moment.
pub(super) async fn carry(
    hub: &Hub,
    flow: &Flow,
    sockets: Sides<&TcpStream>,
    due: Due<'_>,
    trace: Option<&Trace<'_>>,
) -> Copied {
    let verdict = trace.map(|trace| Verdict { trace, lost: AtomicBool::new(false) });
    match try_carry(hub, flow, sockets, due, verdict.as_ref()).await {
        Ok(copied) => copied,
        Err(error) => Copied::Ended(internal(flow, flow.copied(), &error)),
    }
}

async fn try_carry(
    hub: &Hub,
    flow: &Flow,
    sockets: Sides<&TcpStream>,
    due: Due<'_>,
    verdict: Option<&Verdict<'_>>,
) -> io::Result<Copied> {
    let mut teardown = begin(hub, flow, sockets)?;
    let (blocked, resting) = (&Notify::new(), Sides::<AtomicBool>::default());
    let all_rest = || resting.all(|resting| resting.load(Ordering::Relaxed));
    let [to_upstream, to_client] = &flow.copied;
    let pump = |target, moved, resting, verdict| Pump { flow, target, moved, resting, blocked, verdict };
    let Sides { client, upstream } = sockets;
    let mut up = std::pin::pin!(pump(upstream, to_upstream, &resting.client, None).run(client));
    let mut down = std::pin::pin!(pump(client, to_client, &resting.upstream, verdict).run(upstream));
    let (mut state, mut timers) = (State::default(), Timers::default());
    loop {
        tokio::select! {
            () = &mut up, if !state.ended.client => state.ended.client = true,
            () = &mut down, if !state.ended.upstream => state.ended.upstream = true,
            // A pump that has ended, or that waits for its target, does not notice what becomes of its source.
            () = failed(client), if !state.broken.client => state.broken.client = true,
            () = failed(upstream), if !state.broken.upstream => state.broken.upstream = true,
            // Time to end, or to look whether the peers are still there.
            () = flow.wake.notified() => {}
            () = is_due(due, timers.due) => {
                if state.may_change(&teardown) && !is_leaving(flow) && all_rest() {
                    return Ok(Copied::Due);
                }
                timers.due = after(Some(LOOK));
                continue;
            }
            () = blocked.notified() => {
                timers.look = sooner(timers.look, after(Some(LOOK)));
                continue;
            }
            () = until(timers.look) => {}
            // Once it is over it would be over again at once: only a turn ends it.
            () = teardown.idle(|| flow.rested()), if !is_leaving(flow) => {}
        }
        if !state.stopped && hub.is_closing() {
            state.stopped = true;
            teardown.close();
        }
        if is_leaving(flow) {
            // What hands it over keeps the time from here on.
            timers.look = None;
            continue;
        }
        execute(&mut teardown, flow, verdict);
        match teardown.turn(sockets, || (state.seen(flow), Sides::both(0)))? {
            Next::Wait(next) => timers.look = sooner(after(next), after((!all_rest()).then_some(LOOK))),
            Next::Done(done) => return Ok(Copied::Ended(Carried { bytes: flow.copied(), ..done })),
        }
    }
}

/// What has become of a flow so far.
#[derive(Default)]
struct State {
    /// The pump that reads from this side has come to its end.
    ended: Sides<bool>,
    /// The socket of this side has failed.
    broken: Sides<bool>,
    /// We were told to stop.
    stopped: bool,
}

/// When to look again: moments, not times to wait, since a wait would begin anew whenever anything else happens.
#[derive(Default)]
struct Timers {
    /// At the sockets, to see what has become of them.
    look: Option<Instant>,
    /// Whether another datapath may go on. None: when that is due for the first time.
    due: Option<Instant>,
}

impl State {
    /// Whether another datapath may go on, as far as the ends of the flow tell.
    fn may_change(&self, teardown: &TeardownDriver) -> bool {
        !self.stopped && !self.ended.any(|ended| *ended) && !teardown.has_ends()
    }

    /// What has been taken off each source.
    fn seen(&self, flow: &Flow) -> Sides<Seen> {
        let bytes = Sides::from(flow.copied_here());
        Sides::of(|side: Side| match (self.ended[side], self.broken[side]) {
            (true, _) => Seen::Bytes(bytes[side]),
            (false, true) => Seen::Failed,
            (false, false) => Seen::Unknown,
        })
    }
}

/// A flow that the kernel was to take, and did not, has been copied before.
fn begin(hub: &Hub, flow: &Flow, sockets: Sides<&TcpStream>) -> io::Result<TeardownDriver> {
    if hub.is_closing() {
        // It was rung for that before.
        flow.wake.notify_one();
    }
    let [up, down] = flow.copied_here();
    let legs = Sides::new(leg(sockets.client, down)?, leg(sockets.upstream, up)?);
    Ok(TeardownDriver::new(&flow.config.timeouts, legs, false))
}

/// Where a socket stands that `written` bytes of the flow were written to.
fn leg(socket: &TcpStream, written: u64) -> io::Result<Leg> {
    let reading = if written == 0 { sys::fresh_reading(socket) } else { sys::exact_reading(socket) }?;
    Ok(Leg::from_start(&reading, written))
}

fn execute(teardown: &mut TeardownDriver, flow: &Flow, verdict: Option<&Verdict<'_>>) {
    teardown.execute(flow);
    if verdict.is_some_and(Verdict::has_lost) {
        teardown.lose();
    }
}

fn after(time: Option<Duration>) -> Option<Instant> {
    time.and_then(|time| Instant::now().checked_add(time))
}

/// The sooner of two moments, none of which may come.
fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

async fn is_due(due: Due<'_>, again: Option<Instant>) {
    match (again, due) {
        (Some(moment), _) | (None, Due::At(moment)) => until(Some(moment)).await,
        (None, Due::Rung(bell)) => bell.notified().await,
        (None, Due::Never) => until(None).await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

async fn failed(socket: &TcpStream) {
    let _ = socket.ready(Interest::ERROR).await;
}

/// Whether packets of the flow go past its sockets: these are not told of its end any more.
fn is_leaving(flow: &Flow) -> bool {
    flow.leaving.load(Ordering::Relaxed)
}
