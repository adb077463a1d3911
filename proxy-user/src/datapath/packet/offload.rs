//! One flow on its way out of its sockets: the order of what is done.

use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Answer, Handover, Key};
use proxy_common::flow::{End, Reason, Side};
use proxy_common::packet::craft::Purpose;
use proxy_common::packet::eligible::{self, Obstacle, Policy};
use proxy_common::packet::life::{self, Step};
use proxy_common::packet::seq::later;
use proxy_common::plan::{Datapath, Fallback};
use tokio::net::TcpStream;
use tokio::sync::{Notify, SemaphorePermit};

use super::entry_builder::Plan;
use super::negotiated_options::NegotiatedOptions;
use super::offload_table::bounds;
use super::{PATIENCE, PacketDatapath, Way, send};
use crate::datapath::Carriers;
use crate::hub::{Flow, Hub, Phase};
use crate::kernel::Armed;
use crate::sys;

/// A flow that has carried so much does not wait for its age.
const BULKY: u64 = 1 << 20;

/// First and longest pause between two looks at sockets that drain.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// An end that was asked for a sign of life, and has not answered, is asked again: Linux answers but twice a second
/// (`net.ipv4.tcp_invalid_ratelimit`), and it may have been asked before.
const ASK_AGAIN: Duration = Duration::from_millis(600);

/// What came before a reset may take so long to be acknowledged.
const FLUSH: Duration = Duration::from_secs(1);

/// How often an obstacle that may pass is met before a flow that another datapath would take is left to it: 7 s.
const TRIES: u32 = 3;

/// TCP's `ESTABLISHED`.
const ESTABLISHED: u8 = 1;

/// Returns when the sockets of `flow` are no longer needed, if ever. `bell` is rung, if there is one, when they are for as long as can
/// be told: then another datapath may have them.
pub(super) async fn offload(
    datapath: &PacketDatapath,
    carriers: &Carriers,
    flow: &Flow,
    sockets: &[&TcpStream; 2],
    bell: Option<&Notify>,
) -> Way {
    let mut told: Vec<Obstacle> = Vec::new();
    let mut is_ordered = false;
    for tries in 0.. {
        let mut turn = None;
        if !is_ordered {
            due_to_leave(datapath, flow).await;
            turn = turn_to_try(datapath, flow, tries).await;
        }
        let attempted = if is_silent(flow) {
            Err(Obstacle::Silent)
        } else {
            attempt(datapath, &carriers.hub, flow, sockets, turn).await
        };
        let obstacle = match attempted {
            Ok(way) => return way,
            Err(obstacle) => obstacle,
        };
        flow.facts().obstacle = Some(obstacle.text().into());
        if !told.contains(&obstacle) {
            told.push(obstacle);
            carriers.fall_back(flow, Datapath::Packet, Fallback::Packet(obstacle));
            tracing::debug!(flow = flow.id, reason = obstacle.text(), "the connection is not offloaded");
        }
        if let Some(bell) = bell.filter(|_| !obstacle.may_pass() || tries >= TRIES) {
            // It may be long until the flow rests, and can be had: until then it goes on trying.
            bell.notify_one();
        }
        is_ordered = match obstacle {
            // Its first byte is waited for, and takes no time.
            Obstacle::Silent => false,
            _ => pause(flow, obstacle.may_pass().then(|| eligible::retry(tries))).await,
        };
    }
    std::future::pending().await
}

/// Whether no byte of it has been carried yet.
fn is_silent(flow: &Flow) -> bool {
    flow.copied() == [0; 2]
}

/// Returns when a flow may try once more: with what it has to keep until it has tried. A try looks at the flow again and again, so that
/// only so many may at a time: the more there are whose obstacle does not pass, the rarer each one tries. The first try is not
/// kept waiting, nor is one that is ordered.
async fn turn_to_try<'a>(
    datapath: &'a PacketDatapath,
    flow: &Flow,
    tries: u32,
) -> Option<SemaphorePermit<'a>> {
    if tries == 0 {
        return None;
    }
    tokio::select! {
        turn = datapath.retrying.acquire() => turn.ok(),
        () = flow.orders.to_offload() => None,
    }
}

/// Returns when the flow is old or bulky enough and has carried a byte, or is ordered to leave.
async fn due_to_leave(datapath: &PacketDatapath, flow: &Flow) {
    let stays = || {
        flow.orders.are_to_stay()
            || flow.closing.get().is_some()
            || datapath.is_closing.load(Ordering::Relaxed)
    };
    while !stays() {
        tokio::select! {
            () = due(flow) => if !stays() { return },
            () = flow.orders.to_offload() => return,
        }
    }
    flow.orders.to_offload().await;
}

/// Returns after this time, if there is one, or when the flow is ordered to leave: which of the two.
async fn pause(flow: &Flow, time: Option<Duration>) -> bool {
    let time = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => false,
        () = flow.orders.to_offload() => true,
    }
}

/// Returns when the flow is old or bulky enough, and has carried a byte. Its bytes are looked at whenever its task runs, which is the
/// one that copies them, and has done so before: that takes no timer.
async fn due(flow: &Flow) {
    let policy = Policy { age: flow.config.packet.after, bytes: BULKY };
    let left = || policy.wait(flow.accepted.elapsed(), flow.copied().iter().sum());
    if let Some(wait) = left() {
        let mut alarm = std::pin::pin!(tokio::time::sleep(wait));
        std::future::poll_fn(|context| match left() {
            Some(_) => alarm.as_mut().poll(context),
            None => Poll::Ready(()),
        })
        .await;
    }
    if is_silent(flow) {
        flow.facts().obstacle = Some(Obstacle::Silent.text().into());
        std::future::poll_fn(|_| if is_silent(flow) { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// `turn`: see [`turn_to_try`].
async fn attempt(
    datapath: &PacketDatapath,
    hub: &Hub,
    flow: &Flow,
    sockets: &[&TcpStream; 2],
    turn: Option<SemaphorePermit<'_>>,
) -> Result<Way, Obstacle> {
    let refused = |error: io::Error| {
        tracing::debug!(flow = flow.id, %error, "no hand-over: the system refused something");
        match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC) => Obstacle::MapFull,
            _ => Obstacle::Refused,
        }
    };
    let plan = Plan::make(datapath, flow, sockets).await?;
    datapath.relax(&plan.keys);
    let mut armed = datapath.packet.begin(plan.keys).map_err(refused)?;
    let is_stamped = plan.arm(flow, &mut armed).map_err(refused)??;
    datapath.routes.entered(plan.changes);
    // Packets that went by before it was armed have come to their sockets afterwards.
    datapath.rcu.wait().await.map_err(refused)?;
    flip(flow, &armed, &plan, sockets, is_stamped).await.map_err(refused)??;
    // No way back from here on, and what follows may take as long as a reader does.
    drop(turn);
    let drained = match drain(datapath, hub, flow, &armed, &plan.keys, sockets).await {
        Ok(None) => armed.settle().map(|answer| (answer != Answer::Done).then(|| end(Reason::KernelLost))),
        other => other,
    };
    match drained {
        Ok(None) => {}
        Ok(Some(end)) => return Ok(datapath.part(flow, &plan.keys, end)),
        Err(error) => {
            tracing::warn!(flow = flow.id, %error, "flow reset: its hand-over has failed");
            return Ok(datapath.part(flow, &plan.keys, end(Reason::Internal)));
        }
    }
    let port = datapath.ports.leave_by(&plan.keys).await;
    // A packet that was on its way to a socket must not find it closed: the stack would answer with a reset.
    let waited = datapath.rcu.wait().await.and_then(|()| armed.have_sockets_moved());
    if let Ok(true) = waited {
        tracing::warn!(flow = flow.id, "flow reset: a socket has taken bytes of it after it had left");
        let way = datapath.part(flow, &plan.keys, end(Reason::KernelLost));
        datapath.packet.forget(&plan.keys);
        return Ok(way);
    }
    let closed = waited.and_then(|_| sockets.iter().try_for_each(sys::close_silently));
    if let Err(error) = closed {
        tracing::warn!(flow = flow.id, %error, "flow reset: its sockets cannot be left");
        let way = datapath.part(flow, &plan.keys, end(Reason::Internal));
        datapath.packet.forget(&plan.keys);
        return Ok(way);
    }
    port.left();
    datapath.untrack(&plan.keys);
    Ok(Way::Free(plan.keys, NegotiatedOptions::of(&plan.legs, sockets)))
}

const fn end(reason: Reason) -> End {
    End { reason, side: reason.side() }
}

impl PacketDatapath {
    /// Ends a flow whose sockets have stood still while its bytes went past them. Both ends are reset from here: the sockets' own
    /// resets have numbers of before, which an end takes no notice of. A reset of an end's own has gone to the other one already.
    fn part(&self, flow: &Flow, keys: &[Key; 2], end: End) -> Way {
        let entries = self.entries(keys);
        if !matches!(end.reason, Reason::Reset(_)) {
            send::note(flow, &self.send(keys, &entries, [true; 2], Purpose::Reset));
        }
        let [up, down] = match &entries {
            [Some(client), Some(server)] => {
                [life::most_bytes(client, server), life::most_bytes(server, client)]
            }
            _ => [0; 2],
        };
        let [copied_up, copied_down] = flow.copied();
        Way::Broken(end, [up.max(copied_up), down.max(copied_down)])
    }
}

/// Waits for a moment at which the sockets can be left.
async fn flip(
    flow: &Flow,
    armed: &Armed<'_>,
    plan: &Plan,
    sockets: &[&TcpStream; 2],
    mut is_stamped: bool,
) -> io::Result<Result<(), Obstacle>> {
    let begun = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut pause = LOOK_MIN;
    loop {
        if asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
            sockets.iter().try_for_each(sys::provoke_answer)?;
            asked = Some(Instant::now());
        }
        if !is_stamped {
            is_stamped = armed.look()?.is_ok_and(|sockets| plan.are_stamped(&sockets));
        }
        let answer = if is_stamped { armed.flip()? } else { Answer::Unseen };
        let obstacle = match answer {
            Answer::Done => {
                // In the same breath: what copies must not take the silence of the sockets for an end.
                flow.leaving.store(true, Ordering::Relaxed);
                return Ok(Ok(()));
            }
            Answer::NotEstablished | Answer::NoSocket => return Ok(Err(Obstacle::HalfClosed)),
            Answer::Unseen => Obstacle::Unseen,
            Answer::OutOfOrder | Answer::Between | Answer::Backlog => Obstacle::Backlog,
            Answer::Unknown | Answer::Flipped | Answer::Malformed | Answer::OtherState => {
                return Ok(Err(Obstacle::Refused));
            }
        };
        if begun.elapsed() >= PATIENCE {
            return Ok(Err(obstacle));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Waits until both ends have what the sockets owe them. Some: that will not be.
async fn drain(
    datapath: &PacketDatapath,
    hub: &Hub,
    flow: &Flow,
    armed: &Armed<'_>,
    keys: &[Key; 2],
    sockets: &[&TcpStream; 2],
) -> io::Result<Option<End>> {
    let mut stopping = std::pin::pin!(hub.phases.reached(Phase::Closing));
    let mut reset_since: Option<Instant> = None;
    let mut pause = LOOK_MIN;
    loop {
        let handover = armed.read()?;
        if handover.drained.iter().all(|drained| *drained != 0) {
            return Ok(None);
        }
        if flow.orders.are_to_kill() {
            return Ok(Some(end(Reason::Killed)));
        }
        if let Some(side) = resetter(datapath, keys, &handover) {
            // The other end may still be owed something that came before.
            let since = reset_since.get_or_insert_with(Instant::now);
            if is_served(&handover, side.other()) || since.elapsed() >= FLUSH {
                return Ok(Some(end(Reason::Reset(side))));
            }
        }
        if let Some(end) = overdue(datapath, flow, keys) {
            return Ok(Some(end));
        }
        for (socket, side) in sockets.iter().zip(Side::BOTH) {
            if sys::leg(socket)?.state != ESTABLISHED {
                return Ok(Some(end(Reason::Reset(side))));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stopping => return Ok(Some(end(Reason::Drain))),
        }
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// A reader that takes no more may keep a socket from finishing: the bounds of all flows hold here, too.
fn overdue(datapath: &PacketDatapath, flow: &Flow, keys: &[Key; 2]) -> Option<End> {
    let entries = datapath.entries(keys);
    let [Some(client), Some(server)] = &entries else { return None };
    let active_ms = later(client.active_ms, server.active_ms);
    match life::step([Some(client), Some(server)], active_ms, sys::now_ms(), &bounds(flow)) {
        Step::Cut(end) => Some(end),
        Step::Wait(_) | Step::Probe(..) | Step::Search(..) | Step::Over(_) => None,
    }
}

/// Who has reset the connection, if that is certain of any end. An end that has gone for a reset which was not believed answers what our
/// socket sends it with one that is.
fn resetter(datapath: &PacketDatapath, keys: &[Key; 2], handover: &Handover) -> Option<Side> {
    let (heard, _) = Side::BOTH.into_iter().zip(handover.reset).find(|(_, reset)| *reset != 0)?;
    let [Some(client), Some(server)] = &datapath.entries(keys) else { return Some(heard) };
    Some(life::resetter(client, server).unwrap_or(heard))
}

/// Whether an end has all that a socket owes it, or wants no more.
fn is_served(handover: &Handover, side: Side) -> bool {
    [handover.drained, handover.reset]
        .iter()
        .any(|said| said.get(side.index()).is_some_and(|said| *said != 0))
}
