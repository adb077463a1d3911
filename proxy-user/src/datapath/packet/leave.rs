//! One flow on its way out of its sockets: the order of what is done.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Answer, Entry, Handover, Key, Socket};
use proxy_common::flow::{End, Reason, Side};
use proxy_common::packet::eligible::{self, Leg, Obstacle, Policy};
use proxy_common::packet::life::{self, Step};
use proxy_common::packet::seq::later;
use proxy_common::plan::{Datapath, Fallback};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::lot::bounds;
use super::terms::{self, Terms};
use super::{PATIENCE, Road, Way, key};
use crate::datapath::Carriers;
use crate::hub::{Flow, Hub, Phase};
use crate::kernel::Armed;
use crate::sys;

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
pub(super) async fn leave(
    road: &Road,
    carriers: &Carriers,
    flow: &Flow,
    sockets: &[&TcpStream; 2],
    bell: Option<&Notify>,
) -> Way {
    let mut told: Vec<Obstacle> = Vec::new();
    let mut is_ordered = false;
    for tries in 0.. {
        if !is_ordered {
            turn(road, flow).await;
        }
        let obstacle = match attempt(road, &carriers.hub, flow, sockets).await {
            Ok(way) => return way,
            Err(obstacle) => obstacle,
        };
        flow.facts().obstacle = Some(obstacle.text().into());
        if !told.contains(&obstacle) {
            told.push(obstacle);
            carriers.fall_back(flow, Datapath::Packet, Fallback::Packet(obstacle));
            tracing::debug!(flow = flow.id, reason = obstacle.text(), "the flow keeps its sockets");
        }
        if let Some(bell) = bell.filter(|_| !obstacle.may_pass() || tries >= TRIES) {
            // It may be long until the flow rests, and can be had: until then it goes on trying.
            bell.notify_one();
        }
        is_ordered = pause(flow, obstacle.may_pass().then(|| eligible::retry(tries))).await;
    }
    std::future::pending().await
}

/// Returns when the flow is old or bulky enough, or is ordered to leave.
async fn turn(road: &Road, flow: &Flow) {
    let stays = || {
        flow.orders.are_to_stay() || flow.closing.get().is_some() || road.is_closing.load(Ordering::Relaxed)
    };
    while !stays() {
        tokio::select! {
            () = due(&road.policy, flow) => if !stays() { return },
            () = flow.orders.to_leave() => return,
        }
    }
    flow.orders.to_leave().await;
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
        () = flow.orders.to_leave() => true,
    }
}

/// Returns when the flow is old or bulky enough. Its bytes are looked at whenever its task runs, which is the one that copies
/// them: that takes no timer.
async fn due(policy: &Policy, flow: &Flow) {
    let left = || policy.wait(flow.accepted.elapsed(), flow.copied().iter().sum());
    let Some(wait) = left() else { return };
    let mut alarm = std::pin::pin!(tokio::time::sleep(wait));
    std::future::poll_fn(|context| match left() {
        Some(_) => alarm.as_mut().poll(context),
        None => Poll::Ready(()),
    })
    .await;
}

async fn attempt(road: &Road, hub: &Hub, flow: &Flow, sockets: &[&TcpStream; 2]) -> Result<Way, Obstacle> {
    let refused = |error: io::Error| {
        tracing::debug!(flow = flow.id, %error, "no hand-over: the system refused something");
        match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC) => Obstacle::MapFull,
            _ => Obstacle::Refused,
        }
    };
    let plan = Plan::make(road, flow, sockets)?;
    let mut armed = road.packet.begin(plan.keys).map_err(refused)?;
    let is_stamped = plan.arm(flow, &mut armed).map_err(refused)??;
    road.routes.entered(plan.changes);
    // Packets that went by before it was armed have come to their sockets afterwards.
    road.grace.wait().await.map_err(refused)?;
    flip(flow, &armed, &plan, sockets, is_stamped).await.map_err(refused)??;
    // No way back from here on.
    let drained = match drain(road, hub, flow, &armed, &plan.keys, sockets).await {
        Ok(None) => armed.settle().map(|answer| (answer != Answer::Done).then(|| broken(Reason::KernelLost))),
        Ok(Some(end)) => Ok(Some(Way::Broken(end))),
        Err(error) => Err(error),
    };
    match drained {
        Ok(None) => {}
        Ok(Some(way)) => return Ok(way),
        Err(error) => {
            tracing::warn!(flow = flow.id, %error, "flow reset: its hand-over has failed");
            return Ok(broken(Reason::Internal));
        }
    }
    let port = road.ports.leave_by(&plan.keys).await;
    // A packet that was on its way to a socket must not find it closed: the stack would answer with a reset.
    let waited = road.grace.wait().await;
    let closed = waited.and_then(|()| sockets.iter().try_for_each(sys::close_silently));
    if let Err(error) = closed {
        tracing::warn!(flow = flow.id, %error, "flow reset: its sockets cannot be left");
        road.packet.forget(&plan.keys);
        return Ok(broken(Reason::Internal));
    }
    port.left();
    road.untrack(&plan.keys);
    Ok(Way::Free(plan.keys, Terms::of(&plan.legs, sockets)))
}

const fn broken(reason: Reason) -> Way {
    Way::Broken(End { reason, side: reason.side() })
}

/// What a flow becomes.
struct Plan {
    legs: [Leg; 2],
    devices: [u32; 2],
    /// Of routes, so far.
    changes: u64,
    keys: [Key; 2],
}

impl Plan {
    fn make(road: &Road, flow: &Flow, sockets: &[&TcpStream; 2]) -> Result<Self, Obstacle> {
        let changes = road.routes.changes();
        let [client, server] = sockets;
        let (client, server) = (Ends::of(client), Ends::of(server));
        // A socket that has failed has no ends any more.
        let (Ok(client), Ok(server)) = (client, server) else { return Err(Obstacle::HalfClosed) };
        let leg = |ends: &Ends, socket| {
            let route = sys::route(Some(ends.near.ip()), ends.far.ip()).map_err(|_| Obstacle::Device)?;
            let leg = sys::leg(socket).map_err(|_| Obstacle::Refused)?;
            let leg = Leg { is_ipv6: ends.far.is_ipv6(), is_here: route.is_here, ..leg };
            Ok((leg, route.device))
        };
        let ((one, near), (other, far)) = (leg(&client, &sockets[0])?, leg(&server, &sockets[1])?);
        eligible::check([&one, &other]).inspect_err(|obstacle| {
            if *obstacle == Obstacle::TooLarge {
                road.clamp.learn(&flow.listener, eligible::most_for(other.path, other.is_ipv6));
            }
        })?;
        if !road.ports.is_own(server.near.port()) {
            return Err(Obstacle::Port);
        }
        for device in [near, far] {
            road.packet.attach(device).map_err(|reason| {
                tracing::debug!(%reason, "an interface does not take the programs");
                Obstacle::Device
            })?;
        }
        let keys = [key(client.far, client.near), key(server.far, server.near)];
        Ok(Self { legs: [one, other], devices: [near, far], changes, keys })
    }

    /// Has the flow's packets watched. Says whether the sockets know their peers' time stamps.
    fn arm(&self, flow: &Flow, armed: &mut Armed<'_>) -> io::Result<Result<bool, Obstacle>> {
        let sockets = match armed.look()? {
            Ok(sockets) => sockets,
            Err(Answer::Backlog) => return Ok(Err(Obstacle::Backlog)),
            Err(_) => return Ok(Err(Obstacle::Unseen)),
        };
        let [one, other] = &self.legs;
        let [client, server] = &sockets;
        if !eligible::can_tell(client.snd_wnd, one.peer_scale, other.own_scale)
            || !eligible::can_tell(server.snd_wnd, other.peer_scale, one.own_scale)
        {
            return Ok(Err(Obstacle::Window));
        }
        let delta = self.delta(flow, &sockets);
        let entry = |leg| self.entry(leg, delta, &sockets, flow);
        armed.arm(delta, [entry(0), entry(1)])?;
        Ok(Ok(self.are_stamped(&sockets)))
    }

    /// Whether both sockets know their peers' time stamps, if there are any: one that was made for a connection that existed
    /// already has to see a packet first.
    fn are_stamped(&self, sockets: &[Socket; 2]) -> bool {
        !terms::have_stamps(&self.legs) || sockets.iter().all(|socket| socket.ts_recent != 0)
    }

    /// The first byte that a socket sent is the first one that the other one received: what userspace holds is not sent yet.
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap round")]
    fn delta(&self, flow: &Flow, [client, server]: &[Socket; 2]) -> [u32; 2] {
        let [up, down] = flow.copied_here();
        let first_sent = |socket: &Socket, bytes: u64| socket.write_seq.wrapping_sub(bytes as u32);
        [
            first_sent(server, up).wrapping_sub(client.first()),
            first_sent(client, down).wrapping_sub(server.first()),
        ]
    }

    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap round")]
    fn entry(&self, leg: u8, delta: [u32; 2], sockets: &[Socket; 2], flow: &Flow) -> Entry {
        let [up, down] = flow.restored.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
        // What its end had sent before it got its socket.
        let before = if leg == 0 { up } else { down };
        let turn = |pair: [u32; 2]| if leg == 0 { pair } else { [pair[1], pair[0]] };
        let [own_delta, other_delta] = turn(delta);
        let [_, device] = turn(self.devices);
        let ([client, server], [client_leg, server_leg]) = (sockets, &self.legs);
        let [client_key, server_key] = &self.keys;
        let (own, own_leg, other_leg, other_key) = if leg == 0 {
            (client, client_leg, server_leg, server_key)
        } else {
            (server, server_leg, client_leg, client_key)
        };
        Entry {
            leg,
            scale_in: own_leg.peer_scale,
            scale_out: other_leg.own_scale,
            window: u16::try_from(own.snd_wnd >> own_leg.peer_scale).unwrap_or(u16::MAX),
            sent: own.received() + before,
            device,
            source: other_key.target,
            target: other_key.source,
            source_port: other_key.target_port,
            target_port: other_key.source_port,
            seq: own_delta,
            ack: 0_u32.wrapping_sub(other_delta),
            start: own.first().wrapping_sub(before as u32),
            acked: own.snd_una,
            stamped: own.ts_recent,
            active_ms: sys::now_ms(),
            ..Entry::default()
        }
    }
}

/// Addresses of a connection.
struct Ends {
    near: SocketAddr,
    far: SocketAddr,
}

impl Ends {
    fn of(socket: &TcpStream) -> io::Result<Self> {
        let socket = socket2::SockRef::from(socket);
        let address = |address: socket2::SockAddr| {
            let address = address.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok::<_, io::Error>(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        Ok(Self { near: address(socket.local_addr()?)?, far: address(socket.peer_addr()?)? })
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
    road: &Road,
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
            return Ok(Some(End { reason: Reason::Killed, side: None }));
        }
        if let Some(end) = reset(&handover) {
            // The other end may still be owed something that came before.
            let since = reset_since.get_or_insert_with(Instant::now);
            if is_drained(&handover, end.side.map(Side::other)) || since.elapsed() >= FLUSH {
                return Ok(Some(end));
            }
        }
        if let Some(end) = overdue(road, hub, keys) {
            return Ok(Some(end));
        }
        for (socket, side) in sockets.iter().zip(Side::BOTH) {
            if sys::leg(socket)?.state != ESTABLISHED {
                let reason = Reason::Reset(side);
                return Ok(Some(End { reason, side: reason.side() }));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stopping => return Ok(Some(End { reason: Reason::Drain, side: None })),
        }
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// A reader that takes no more may keep a socket from finishing: the bounds of all flows hold here, too.
fn overdue(road: &Road, hub: &Hub, keys: &[Key; 2]) -> Option<End> {
    let entries = road.entries(keys);
    let [Some(client), Some(server)] = &entries else { return None };
    let active_ms = later(client.active_ms, server.active_ms);
    match life::step([Some(client), Some(server)], active_ms, sys::now_ms(), &bounds(hub)) {
        Step::Cut(end) => Some(end),
        Step::Wait(_) | Step::Probe(..) | Step::Over(_) => None,
    }
}

fn reset(handover: &Handover) -> Option<End> {
    let side = Side::BOTH.into_iter().zip(handover.reset).find(|(_, reset)| *reset != 0)?.0;
    Some(End { reason: Reason::Reset(side), side: Some(side) })
}

fn is_drained(handover: &Handover, side: Option<Side>) -> bool {
    side.and_then(|side| handover.drained.get(side.index())).is_some_and(|drained| *drained != 0)
}
