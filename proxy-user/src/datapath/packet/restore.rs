//! One flow on its way back into sockets: the order of what is done. What it rests on is in `proxy_common::packet::restore`.
//!
//! Up to the moment at which the programs are told that the sockets are there, there is a way back: packets are forwarded
//! again, and those that were dropped meanwhile are sent again by the ends. From then on the flow has its sockets, or is reset.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Answer, Entry, Key};
use proxy_common::flow::{End, Reason};
use proxy_common::packet::craft::Purpose;
use proxy_common::packet::life::{self, Step};
use proxy_common::packet::restore::{self, Start, Starts};
use socket2::Socket;
use tokio::task::JoinSet;

use super::PacketDatapath;
use super::negotiated_options::NegotiatedOptions;
use super::offload_table::{OffloadTable, OffloadedFlow, bounds};
use super::progress::note_progress;
use crate::hub::{Hub, Permit, Restored};
use crate::sys;

/// Between two looks at what the ends acknowledge.
const LOOK: Duration = Duration::from_millis(3);

/// They have so long to acknowledge all that is on its way to them. What they have got and not said by then is sent to them once
/// more.
const REST: Duration = Duration::from_millis(700);

/// An end that has not said so by then is asked again: Linux answers but twice a second (`net.ipv4.tcp_invalid_ratelimit`).
const ASK_AGAIN: Duration = Duration::from_millis(550);

/// Tries where packets were lost, and the pause between two.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(400);

/// So long a flow waits for a place among the connections with sockets.
const ROOM: Duration = Duration::from_secs(1);

/// A stop takes flows back for so long, so many at a time; and so many are taken back because they are idle.
const RELEASE: Duration = Duration::from_secs(3);
pub(super) const AT_A_TIME: usize = 64;

/// Why a flow stays without sockets.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{}", .0.text())]
    Hindered(restore::Hindrance),
    #[error("its ends do not say what they have got")]
    Unsettled,
    #[error("the peers cannot be asked what they have received: {0}")]
    Unasked(io::Error),
    #[error("its entries are not what they should be, or are gone ({0:?})")]
    Refused(Answer),
    #[error("there are as many connections with sockets as the limit on open files allows")]
    Full,
    #[error("the system refuses a socket: {0}")]
    System(#[from] io::Error),
}

/// Its packets are held. Dropped: they are forwarded again.
struct Held<'a> {
    datapath: &'a PacketDatapath,
    client: Key,
    freed: bool,
}

impl<'a> Held<'a> {
    fn begin(datapath: &'a PacketDatapath, client: Key) -> Result<Self, Failed> {
        done(datapath.packet.hold(&client)?)?;
        Ok(Self { datapath, client, freed: false })
    }

    /// The sockets are there.
    fn free(&mut self) -> Result<(), Failed> {
        done(self.datapath.packet.free(&self.client)?)?;
        self.freed = true;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.freed {
            // Where that fails they have been held for so long that they are forwarded already.
            let _ = self.datapath.packet.resume(&self.client);
        }
    }
}

/// The new sockets of a flow, the client's first, where they begin, and their place among those of others.
struct Remade {
    sockets: [Socket; 2],
    starts: Starts,
    permit: Permit,
}

fn done(answer: Answer) -> Result<(), Failed> {
    if answer == Answer::Done { Ok(()) } else { Err(Failed::Refused(answer)) }
}

impl OffloadTable {
    /// Takes a flow that is not over out of the lot: whoever does so puts it back, or sees to its end.
    fn take(&self, client: &Key) -> Option<OffloadedFlow> {
        let mut inner = self.inner();
        inner.offloaded.get(client).filter(|offloaded| offloaded.active.is_some())?;
        inner.offloaded.remove(client)
    }

    /// The flows that are not over.
    pub(super) fn alive(&self) -> Vec<Key> {
        let inner = self.inner();
        let alive = inner.offloaded.iter().filter(|(_, offloaded)| offloaded.active.is_some());
        alive.map(|(key, _)| *key).collect()
    }
}

impl PacketDatapath {
    /// Takes back the flow whose client's packets have this key. `closing`: to end it in order, or else with resets.
    pub(super) async fn take_back(&self, hub: &Hub, client: Key, closing: Option<Reason>) {
        let Some(offloaded) = self.table.take(&client) else { return };
        let flow = Arc::clone(&offloaded.flow);
        match self.restore_in_time(hub, &offloaded, closing.is_some()).await {
            Ok(restored) => self.bring_home(hub, offloaded, restored, closing),
            Err(failed) => {
                tracing::debug!(flow = flow.id, reason = %failed, "the connection stays offloaded");
                hub.meters.moved("restore_failed");
                flow.facts().obstacle = Some(failed.to_string().into());
                self.put(hub, offloaded);
                self.table.look_after(&client, Some(Duration::ZERO));
                if let Some(reason) = closing {
                    self.end_now(hub, &client, reason);
                }
                if flow.orders.are_to_kill() {
                    self.end_now(hub, &client, Reason::Killed);
                }
            }
        }
    }

    async fn restore_in_time(
        &self,
        hub: &Hub,
        offloaded: &OffloadedFlow,
        closing: bool,
    ) -> Result<Remade, Failed> {
        let permit =
            tokio::time::timeout(ROOM, hub.connection_limit.wait()).await.map_err(|_| Failed::Full)?.kept();
        let mut restored = self.restore(offloaded, closing).await;
        for _ in 1..TRIES {
            if !matches!(restored, Err(Failed::Unsettled)) {
                break;
            }
            // Meanwhile they may send again what was lost.
            tokio::time::sleep(PAUSE).await;
            restored = self.restore(offloaded, closing).await;
        }
        let (sockets, starts) = restored?;
        Ok(Remade { sockets, starts, permit })
    }

    /// Takes a flow back that is idle, to end it in order. Many may be so at once: each has its turn before it is held, since what is
    /// held for too long is reset.
    pub(super) async fn end_idle(&self, hub: &Hub, client: Key) {
        let Ok(_turn) = self.returning.acquire().await else { return };
        if self.is_idle(&client) {
            self.take_back(hub, client, Some(Reason::IdleTimeout)).await;
        } else {
            self.table.look_after(&client, Some(Duration::ZERO));
        }
    }

    /// Whether it still is.
    fn is_idle(&self, client: &Key) -> bool {
        let mut inner = self.table.inner();
        let Some(offloaded) = inner.offloaded.get_mut(client).filter(|offloaded| offloaded.active.is_some())
        else {
            return false;
        };
        let entries = self.entries(&offloaded.keys);
        note_progress(offloaded, &entries);
        let step = life::step(
            entries.each_ref().map(Option::as_ref),
            offloaded.moved_ms,
            sys::now_ms(),
            &bounds(&offloaded.flow),
        );
        matches!(step, Step::Cut(end) if end.reason == Reason::IdleTimeout)
    }

    /// `closing`: it ends anyway, and there need be nobody who answers.
    async fn restore(
        &self,
        offloaded: &OffloadedFlow,
        closing: bool,
    ) -> Result<([Socket; 2], Starts), Failed> {
        let [client, server] = offloaded.keys;
        let mut held = Held::begin(self, client)?;
        // Packets that were seen before may be on their way through the programs.
        self.rcu.wait().await?;
        if !self.are_held(offloaded) {
            // A packet came between: the next try finds the entries as they are after it.
            return Err(Failed::Unsettled);
        }
        let unasked = self.rest(offloaded, closing).await;
        let [Some(one), Some(other)] = self.entries(&offloaded.keys) else {
            return Err(Failed::Refused(Answer::Unknown));
        };
        let options = offloaded.options.unwrap_or_else(|| NegotiatedOptions::unknown([&one, &other]));
        let starts =
            restore::start([&one, &other], options.stamps, sys::now_ms()).map_err(Failed::Hindered)?;
        if !closing && !restore::have_confirmed([&one, &other]) {
            return Err(unasked.map_or(Failed::Unsettled, Failed::Unasked));
        }
        let under_way = restore::under_way([&one, &other]).unwrap_or([u64::MAX; 2]);
        let catch_up = |(bytes, [most, _]): (u64, [u32; 2])| restore::can_catch_up(bytes, most);
        if !under_way.into_iter().zip(options.sizes).all(catch_up) {
            return Err(unasked.map_or(Failed::Unsettled, Failed::Unasked));
        }
        let [first, second] = &starts.legs;
        let sockets = [make(&client, &other, first, &options, 0)?, make(&server, &one, second, &options, 1)?];
        self.track(&offloaded.keys);
        held.free()?;
        Ok((sockets, starts))
    }

    fn are_held(&self, offloaded: &OffloadedFlow) -> bool {
        let [Some(client), Some(server)] = &self.entries(&offloaded.keys) else { return false };
        restore::are_held([client, server], sys::now_ms())
    }

    /// Waits until both ends have said that they have got all that was forwarded to them, or for a while. They are asked even if that is
    /// known already, unless the flow is to end anyway: what is known may be what somebody else has said. Some: one could not be asked.
    async fn rest(&self, offloaded: &OffloadedFlow, closing: bool) -> Option<io::Error> {
        let (begun, mut asked, mut unasked) = (Instant::now(), [false; 2], None);
        while begun.elapsed() < REST {
            let entries = self.entries(&offloaded.keys);
            let [Some(client), Some(server)] = &entries else { return unasked };
            let ends = [client, server];
            if (closing || restore::have_confirmed(ends)) && restore::under_way(ends) == Some([0; 2]) {
                return unasked;
            }
            let turn = usize::from(begun.elapsed() >= ASK_AGAIN);
            if let Some(asked) = asked.get_mut(turn).filter(|asked| !**asked) {
                *asked = true;
                let unsent = self.send(&offloaded.keys, &entries, [true; 2], Purpose::Probe);
                unasked = unsent.into_iter().flatten().next();
            }
            tokio::time::sleep(LOOK).await;
        }
        unasked
    }

    /// The flow has its sockets: a worker goes on with it.
    fn bring_home(
        &self,
        hub: &Hub,
        offloaded: OffloadedFlow,
        Remade { sockets, starts, permit }: Remade,
        closing: Option<Reason>,
    ) {
        let flow = Arc::clone(&offloaded.flow);
        flow.moved(self.packet.rested(&offloaded.keys).unwrap_or_default());
        self.clear(&offloaded);
        self.table.forget(&offloaded.keys);
        flow.count(&hub.meters, starts.delivered);
        for (permit, delivered) in
            flow.copied.iter().chain(&flow.restored).zip(starts.delivered.iter().cycle())
        {
            permit.store(*delivered, Ordering::Relaxed);
        }
        flow.leaving.store(false, Ordering::Relaxed);
        flow.facts().keys = None;
        if let Some(reason) = closing {
            let _ = flow.closing.set(reason);
        }
        let OffloadedFlow { record, .. } = offloaded;
        let begun = begin(&sockets, flow.config.timeouts.keepalive);
        let sockets = sockets.map(TcpStream::from);
        let sent = match begun {
            Ok(()) => hub.workers.restore(Restored { flow: Arc::clone(&flow), record, sockets, permit }),
            Err(error) => {
                tracing::warn!(flow = flow.id, %error, "flow reset: its new sockets cannot be used");
                Err(Box::new(record))
            }
        };
        match sent {
            Ok(()) => hub.meters.moved("restored"),
            Err(mut record) => {
                hub.meters.moved("restore_failed");
                record.settle(hub, &flow, End { reason: Reason::Internal, side: None }, starts.delivered);
                hub.flows.leave_parked(&flow);
            }
        }
    }

    /// Takes back as many flows as the time allows: the operator wants none to outlive the daemon. They end as all others do.
    pub(crate) async fn take_all_back(self: &Arc<Self>, hub: &Arc<Hub>) {
        self.is_closing.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for client in self.table.alive() {
            if tasks.len() >= AT_A_TIME {
                tasks.join_next().await;
            }
            if begun.elapsed() >= RELEASE {
                break;
            }
            let (datapath, hub) = (Arc::clone(self), Arc::clone(hub));
            tasks.spawn(async move { datapath.take_back(&hub, client, Some(Reason::Drain)).await });
        }
        // Each of them is short.
        while tasks.join_next().await.is_some() {}
    }
}

/// The socket of one leg. `back` is the entry of what it sends, as long as that is forwarded.
fn make(
    key: &Key,
    back: &Entry,
    start: &Start,
    options: &NegotiatedOptions,
    leg: usize,
) -> io::Result<Socket> {
    let [most_sent, most_received] = options.sizes.get(leg).copied().unwrap_or_default();
    let connection = sys::Connection {
        near: key.target_address(),
        far: scoped(key.source_address(), back.device),
        start: *start,
        most_sent,
        most_received: Some(most_received).filter(|most| *most > 0),
        selective: options.selective,
    };
    let socket = sys::restore(&connection)?;
    sys::reset_on_close(&socket, true)?;
    sys::write_at_once(&socket)?;
    Ok(socket)
}

/// An address that is good on one link only needs the interface of that.
fn scoped(address: SocketAddr, device: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(mut six) if six.ip().is_unicast_link_local() => {
            six.set_scope_id(device);
            six.into()
        }
        other => other,
    }
}

/// Lets both speak. Where that fails, dropping them resets the connections.
fn begin(sockets: &[Socket; 2], keepalive: Duration) -> io::Result<()> {
    let [client, _] = sockets;
    // That of the server is set when a flow is older.
    sys::keep_alive(client, keepalive)?;
    sockets.iter().try_for_each(sys::begin)
}
