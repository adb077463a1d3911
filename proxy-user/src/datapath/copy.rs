//! Userspace reads and writes: the datapath that always works, and the reference for all others.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxy_common::flow::{Leg, Seen};
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

/// Carries a pair to its end, or until another datapath may go on and it rests for a moment: its sockets, the client's first.
pub(super) async fn carry(
    hub: &Hub,
    flow: &Flow,
    sockets: [&TcpStream; 2],
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
    sockets: [&TcpStream; 2],
    due: Due<'_>,
    verdict: Option<&Verdict<'_>>,
) -> io::Result<Copied> {
    let mut teardown = begin(hub, flow, sockets)?;
    let [to_upstream, to_client] = &flow.copied;
    let (blocked, resting) = (&Notify::new(), [AtomicBool::new(false), AtomicBool::new(false)]);
    let all_rest = || resting.iter().all(|resting| resting.load(Ordering::Relaxed));
    let pump = |target, moved, resting, verdict| Pump { flow, target, moved, resting, blocked, verdict };
    let mut up = std::pin::pin!(pump(sockets[1], to_upstream, &resting[0], None).run(sockets[0]));
    let mut down = std::pin::pin!(pump(sockets[0], to_client, &resting[1], verdict).run(sockets[1]));
    // Whether a pump has come to its end, we have been told to stop, and a socket has failed; when to look again: a moment, not a
    // time to wait, since a wait would begin anew whenever anything else happens.
    let (mut ended, mut stopped, mut broken) = ([false; 2], false, [false; 2]);
    let (mut limit, mut due_again) = (None, None);
    loop {
        tokio::select! {
            () = &mut up, if !ended[0] => ended[0] = true,
            () = &mut down, if !ended[1] => ended[1] = true,
            // A pump that has ended, or that waits for its target, does not notice what becomes of its source.
            () = failed(sockets[0]), if !broken[0] => broken[0] = true,
            () = failed(sockets[1]), if !broken[1] => broken[1] = true,
            // Time to end, or to look whether the peers are still there.
            () = flow.wake.notified() => {}
            () = is_due(due, due_again) => {
                let has_ends = ended != [false; 2] || teardown.has_ends();
                if !stopped && !has_ends && !is_leaving(flow) && all_rest() {
                    return Ok(Copied::Due);
                }
                due_again = after(Some(LOOK));
                continue;
            }
            () = blocked.notified() => {
                limit = sooner(limit, after(Some(LOOK)));
                continue;
            }
            () = until(limit) => {}
            // Once it is over it would be over again at once: only a turn ends it.
            () = teardown.idle(|| flow.rested()), if !is_leaving(flow) => {}
        }
        if !stopped && hub.is_closing() {
            stopped = true;
            teardown.close();
        }
        if is_leaving(flow) {
            // What hands it over keeps the time from here on.
            limit = None;
            continue;
        }
        execute(&mut teardown, flow, verdict);
        match teardown.turn(sockets, || (taken(flow, ended, broken), [0; 2]))? {
            Next::Wait(next) => limit = sooner(after(next), after((!all_rest()).then_some(LOOK))),
            Next::Done(done) => return Ok(Copied::Ended(Carried { bytes: flow.copied(), ..done })),
        }
    }
}

/// A flow that the kernel was to take, and did not, has been copied before.
fn begin(hub: &Hub, flow: &Flow, [client, upstream]: [&TcpStream; 2]) -> io::Result<TeardownDriver> {
    if hub.is_closing() {
        // It was rung for that before.
        flow.wake.notify_one();
    }
    let [up, down] = flow.copied_here();
    Ok(TeardownDriver::new(&flow.config.timeouts, [leg(client, down)?, leg(upstream, up)?], false))
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

fn taken(flow: &Flow, ended: [bool; 2], broken: [bool; 2]) -> [Seen; 2] {
    let [up, down] = flow.copied_here();
    [seen(ended[0], broken[0], up), seen(ended[1], broken[1], down)]
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

/// Whether packets of the flow go past its sockets: these are not told of its end any more.
fn is_leaving(flow: &Flow) -> bool {
    flow.leaving.load(Ordering::Relaxed)
}
