//! Flows that leave their sockets: packets are translated on their way through this host, in the kernel.
//!
//! A flow begins as a copied one. When its time has come, its packets are let past the sockets, which finish what they have
//! begun (`proxy_common::packet::drain`) while userspace goes on copying what they hold. Then they are closed without a word
//! to their peers. What is left is two entries of a map, and a place in the [`OffloadTable`].

mod adopt;
mod ageing;
mod ask;
mod attached;
mod clamp;
mod conntrack;
mod end;
mod entry_builder;
mod journal;
mod left;
mod negotiated_options;
mod offload;
mod offload_table;
mod port_table;
mod ports;
mod progress;
mod rcu_barrier;
mod restore;
mod restored;
mod routes;
mod send;
mod stop;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proxy_common::abi::packet::{Key, address_of, offer};
use proxy_common::flow::End;
use proxy_common::kernels::Part;
use proxy_common::packet::eligible::{self, Obstacle};
use proxy_common::plan::{Datapath, Fallback};
use socket2::Socket;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use super::copy::{self, Copied, Due};
use super::{Carried, Carriers, Outcome, Pair, internal};
use crate::hub::snapshot;
use crate::hub::{AccessRecord, Active, Bytes, Flow, Hub, LogThrottle};
use crate::kernel::packet::Claim;
use crate::kernel::{Packet, Unavailable};
use crate::{kernel, sys};

use self::clamp::Clamp;
pub(crate) use self::clamp::Clamped;
pub(crate) use self::left::open_left;
use self::negotiated_options::NegotiatedOptions;
use self::offload_table::OffloadTable;
use self::ports::{Ports, Reserved};
use self::rcu_barrier::RcuBarrier;
use self::routes::Routes;

/// What the workers share.
pub(crate) struct PacketDatapath {
    pub(crate) packet: Arc<Packet>,
    table: OffloadTable,
    rcu: RcuBarrier,
    ports: Ports,
    routes: Routes,
    pub(crate) clamp: Clamp,
    /// Turns of flows that are idle, to get sockets for their end.
    returning: Semaphore,
    /// Turns of flows that keep their sockets, to try once more whether they can leave them.
    retrying: Semaphore,
    /// The turn of a connection to have the programs attached to an interface.
    attaching: Arc<tokio::sync::Mutex<()>>,
    /// The daemon ends, and no flow is to outlive it.
    is_closing: AtomicBool,
    /// That ends cannot be sent anything.
    throttle: LogThrottle,
}

/// A flow that has left its sockets.
pub(crate) struct Departed {
    datapath: Arc<PacketDatapath>,
    keys: [Key; 2],
    options: NegotiatedOptions,
    active: Active,
}

/// How the sockets of a flow were left.
enum Way {
    /// They have nothing more to do.
    Free([Key; 2], NegotiatedOptions),
    /// The flow has to be reset. So many bytes it has carried, by its sockets and past them.
    Broken(End, Bytes),
    /// They are not: the flow has to keep them.
    Kept,
}

impl PacketDatapath {
    /// Loads the programs, and finds the flows of an earlier daemon.
    pub(crate) fn open(hub: &Hub, config: &snapshot::Packet) -> Result<Arc<Self>, Unavailable> {
        let opened = || {
            kernel::packet::trial(&config.ports)?;
            let ports = Ports::new(config.ports.clone(), &config.sources)?;
            let claim = Claim::make(&config.pins, &config.ports, &config.journal, config.attach)?;
            Self::begin(hub, config, ports, claim)
        };
        opened().map_err(|error: Unavailable| error.of(Part::Packet))
    }

    fn begin(
        hub: &Hub,
        config: &snapshot::Packet,
        ports: Ports,
        claim: Claim,
    ) -> Result<Arc<Self>, Unavailable> {
        let rcu = RcuBarrier::start().map_err(|error| Unavailable::explain("membarrier(2) fails", &error))?;
        let former = claim.journal.clone();
        // The kernel does not know that they are in use.
        claim.others.iter().for_each(|key| ports.take(key.source_address(), key.target_address()));
        let packet = Arc::new(Packet::open(claim, config.attach)?);
        let datapath = Arc::new(Self {
            packet,
            table: OffloadTable::new(&config.journal),
            rcu,
            ports,
            routes: Routes::default(),
            clamp: Clamp::default(),
            returning: Semaphore::new(restore::AT_A_TIME),
            retrying: Semaphore::new(RETRIES),
            attaching: Arc::default(),
            is_closing: AtomicBool::new(false),
            throttle: LogThrottle::default(),
        });
        datapath.tend_within(&hub.config.current().timeouts)?;
        adopt::adopt(&datapath, hub, former.as_deref());
        datapath.doubt_adopted();
        Ok(datapath)
    }

    /// Gives a socket that is about to connect to `server` what a flow needs that may leave its sockets, for `client`. None: no
    /// port of the range is free. What is returned has to be kept until the socket is connected.
    pub(crate) async fn prepare(
        &self,
        socket: &Socket,
        server: SocketAddr,
        client: &TcpStream,
    ) -> io::Result<Option<Prepared<'_>>> {
        if sys::route(None, server.ip()).is_ok_and(|route| route.is_here) {
            // Its flows never leave: they take no port of those that do.
            return Ok(None);
        }
        let Some(reserved) = self.ports.bind(socket, server)? else { return Ok(None) };
        let source = reserved.source();
        let leg = sys::leg(client)?;
        let client_is_ipv6 = client.peer_addr()?.ip().to_canonical().is_ipv6();
        if client_is_ipv6 == server.is_ipv6() {
            // So that the server sends nothing that is too large for the way to the client.
            sys::limit_segments(socket, eligible::most_for(leg.path, client_is_ipv6))?;
        }
        let options = leg.options;
        // `TCPI_OPT_TIMESTAMPS`, `TCPI_OPT_SACK`.
        let missing =
            [(1, offer::STAMPS), (2, offer::SACK)].into_iter().filter(|(bit, _)| options & bit == 0);
        let offers = missing.fold(0, |all, (_, offer)| all | offer);
        if offers == 0 {
            return Ok(Some(Prepared { _withheld: None, _reserved: reserved }));
        }
        // Where that fails the connection is made with all offers, and the flow keeps its sockets.
        let attached = match sys::route(source, server.ip()) {
            Ok(route) if self.packet.hindrance().is_none() => {
                let attached = tokio::time::timeout(ATTACH, self.attach(route.device)).await;
                attached.is_ok_and(|attached| attached.is_ok())
            }
            _ => false,
        };
        let withheld =
            if attached { Some(self.packet.withhold(sys::cookie(socket)?, offers)?) } else { None };
        Ok(Some(Prepared { _withheld: withheld, _reserved: reserved }))
    }
}

impl PacketDatapath {
    /// Has the programs at an interface. The kernel may take long for that: only this connection waits for it.
    async fn attach(&self, device: u32) -> Result<(), Unavailable> {
        if let Some(known) = self.packet.known(device) {
            return known;
        }
        // One question at a time, however many connections wait for its answer.
        let turn = Arc::clone(&self.attaching).lock_owned().await;
        let packet = Arc::clone(&self.packet);
        let attach = move || {
            let _turn = turn;
            packet.attach(device)
        };
        let attached = tokio::task::spawn_blocking(attach).await;
        attached.unwrap_or_else(|error| Err(Unavailable::explain("the programs are not attached", &error)))
    }
}

/// See [`PacketDatapath::prepare`].
pub(crate) struct Prepared<'a> {
    _withheld: Option<kernel::packet::Withheld<'a>>,
    _reserved: Reserved<'a>,
}

impl Carriers {
    /// Carries a flow whose upstream's datapath this is.
    pub(super) async fn by_packet(&self, flow: &Flow, pair: Pair) -> Outcome {
        let Some(datapath) = self.working_packet() else {
            self.fall_back(flow, Datapath::Packet, Fallback::Unavailable);
            return self.copy_to_the_end(flow, &pair, Datapath::Copy).await;
        };
        self.until_it_leaves(datapath, flow, pair, Datapath::Copy).await
    }

    /// The same where the daemon is to choose. None: the flow keeps its sockets, and another datapath may carry it.
    pub(super) async fn by_packet_if_it_can(&self, flow: &Flow, pair: &Pair) -> Option<Outcome> {
        let refused = match self.working_packet() {
            Some(datapath) if !self.can_splice() => {
                return self.copy_or_leave(datapath, flow, pair, Datapath::Copy, None).await;
            }
            None => Fallback::Unavailable,
            Some(_) if super::is_near(pair) => {
                flow.facts().obstacle = Some(Obstacle::SameHost.text().into());
                Fallback::Packet(Obstacle::SameHost)
            }
            Some(datapath) => {
                let bell = Notify::new();
                return self.copy_or_leave(datapath, flow, pair, Datapath::Copy, Some(&bell)).await;
            }
        };
        self.fall_back(flow, Datapath::Packet, refused);
        None
    }

    /// None: no flow can leave its sockets, or none can now.
    fn working_packet(&self) -> Option<&Arc<PacketDatapath>> {
        self.packet.as_ref().filter(|datapath| datapath.packet.hindrance().is_none())
    }

    /// Copies a flow until it leaves its sockets, or to its end. It counts as carried by `carried`.
    async fn until_it_leaves(
        &self,
        datapath: &Arc<PacketDatapath>,
        flow: &Flow,
        pair: Pair,
        carried: Datapath,
    ) -> Outcome {
        let outcome = self.copy_or_leave(datapath, flow, &pair, carried, None).await;
        outcome
            .unwrap_or_else(|| Outcome::Ended(internal(flow, flow.copied(), &io::ErrorKind::TimedOut.into())))
    }

    /// `bell`: to be rung if the flow has to keep its sockets. None, which is not without it: it has, and rests.
    async fn copy_or_leave(
        &self,
        datapath: &Arc<PacketDatapath>,
        flow: &Flow,
        pair: &Pair,
        carried: Datapath,
        bell: Option<&Notify>,
    ) -> Option<Outcome> {
        let way = {
            let _active = self.begin(flow, carried);
            let sockets = pair.sockets();
            let both = [sockets.client, sockets.upstream];
            let due = bell.map_or(Due::Never, Due::Rung);
            let mut copying = Box::pin(copy::carry(&self.hub, flow, sockets, due, None));
            // Dropped before what copies: a flow that ends by itself is watched no more when its sockets are closed. But polled after it: it
            // looks at the bytes that are copied in this very turn.
            let mut leaving = Box::pin(offload::offload(datapath, self, flow, &both, bell));
            tokio::select! {
                biased;
                copied = &mut copying => match copied {
                    Copied::Ended(carried) => return Some(Outcome::Ended(carried)),
                    Copied::Due => Way::Kept,
                },
                way = &mut leaving => way,
            }
        };
        flow.count(&self.hub.meters, flow.copied());
        Some(match way {
            Way::Kept => return None,
            Way::Free(keys, options) => {
                {
                    let mut facts = flow.facts();
                    (facts.keys, facts.obstacle) = (Some(Box::new(keys)), None);
                }
                self.hub.meters.moved("offloaded");
                let active = self.begin(flow, Datapath::Packet);
                Outcome::Left(Departed { datapath: Arc::clone(datapath), keys, options, active })
            }
            // Closing resets both.
            Way::Broken(end, bytes) => {
                flow.facts().datapath = Some(Datapath::Packet);
                Outcome::Ended(Carried { end, bytes })
            }
        })
    }

    async fn copy_to_the_end(&self, flow: &Flow, pair: &Pair, carried: Datapath) -> Outcome {
        Outcome::Ended(match self.copy_as(carried, flow, pair, Due::Never, None).await {
            Copied::Ended(carried) => carried,
            Copied::Due => internal(flow, flow.copied(), &io::ErrorKind::TimedOut.into()),
        })
    }
}

impl Departed {
    /// Leaves the flow to the lot. Its story is told when it ends.
    pub(crate) fn park(self, hub: &Hub, entry: crate::hub::Entry<'_>, record: AccessRecord) {
        let flow = entry.park();
        let Self { datapath, keys, options, active } = self;
        let offloaded = offload_table::OffloadedFlow::new(
            Arc::clone(&flow),
            record,
            keys,
            Some(options),
            active,
            sys::now_ms(),
        );
        datapath.park(hub, offloaded);
        // Who was told of an order before this has not found the flow in the lot.
        hub.flows.remind(&flow);
    }
}

/// What packets from `source` to `target` bear.
fn key(source: SocketAddr, target: SocketAddr) -> Key {
    Key {
        source: address_of(source.ip()),
        target: address_of(target.ip()),
        source_port: source.port().to_be(),
        target_port: target.port().to_be(),
        padding: 0,
    }
}

/// Flows that may try again at the same time: with thousands that cannot leave, trying takes a few per cent of a processor.
const RETRIES: usize = 32;

/// A connection to a server waits so long for the programs at its interface: less than others wait for its port, which it has taken.
const ATTACH: Duration = Duration::from_millis(100);

/// The longest that a hand-over tries before it lets the flow be for a while.
const PATIENCE: Duration = Duration::from_secs(3);
