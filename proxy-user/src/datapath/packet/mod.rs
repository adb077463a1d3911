//! Flows that leave their sockets: packets are translated on their way through this host, in the kernel.
//!
//! A flow begins as a copied one. When its time has come, its packets are let past the sockets, which finish what they have
//! begun (`proxy_common::packet::drain`) while userspace goes on copying what they hold. Then they are closed without a word
//! to their peers. What is left is two entries of a map, and a place in the [`Lot`].

mod ageing;
mod conntrack;
mod grace;
mod journal;
mod leave;
mod lot;
mod ports;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_common::abi::packet::{Key, address_of, offer};
use proxy_common::flow::{End, Reason};
use proxy_common::packet::eligible::Policy;
use proxy_common::plan::{Datapath, Fallback};
use tokio::net::{TcpSocket, TcpStream};

use super::copy::{self, Copied};
use super::{Carried, Carriers, Outcome, Pair, internal};
use crate::hub::snapshot::{self, Snapshot};
use crate::hub::{Active, Flow, Hub, Story};
use crate::kernel::{Packet, Unavailable};
use crate::sys;

use self::grace::Grace;
use self::lot::Lot;
use self::ports::Ports;
use self::routes::Routes;

/// A flow that has carried so much does not wait for its age.
const BULKY: u64 = 1 << 20;

/// What the workers share.
pub(crate) struct Road {
    pub(crate) packet: Arc<Packet>,
    lot: Lot,
    grace: Grace,
    ports: Ports,
    routes: Routes,
    policy: Policy,
}

/// A flow that has left its sockets.
pub(crate) struct Departed {
    road: Arc<Road>,
    keys: [Key; 2],
    active: Active,
}

/// How the sockets of a flow were left.
enum Way {
    /// They have nothing more to do.
    Free([Key; 2]),
    /// The flow has to be reset.
    Broken(End),
}

impl Road {
    /// Loads the programs, and finds the flows of an earlier daemon.
    pub(crate) fn open(hub: &Hub, config: &snapshot::Packet) -> Result<Arc<Self>, Unavailable> {
        let ports = Ports::new(config.ports.clone())?;
        let grace = Grace::start().map_err(|error| Unavailable::explain("membarrier(2) fails", &error))?;
        let packet = Arc::new(Packet::open(&config.pins)?);
        let policy = Policy { age: config.after, bytes: BULKY };
        let road = Arc::new(Self {
            packet,
            lot: Lot::new(&config.journal),
            grace,
            ports,
            routes: Routes::default(),
            policy,
        });
        road.begin_to_tend(hub)?;
        lot::adopt(&road, hub);
        Ok(road)
    }

    /// Gives a socket that is about to connect to `server` what a flow needs that may leave its sockets, for `client`. None: no
    /// port of the range is free. What is returned has to be kept until the socket is connected.
    pub(crate) fn prepare(
        &self,
        socket: &TcpSocket,
        server: SocketAddr,
        client: &TcpStream,
    ) -> io::Result<Option<Prepared<'_>>> {
        if !self.ports.bind(socket, server)? {
            return Ok(None);
        }
        let options = sys::leg(client)?.options;
        // `TCPI_OPT_TIMESTAMPS`, `TCPI_OPT_SACK`.
        let missing =
            [(1, offer::STAMPS), (2, offer::SACK)].into_iter().filter(|(bit, _)| options & bit == 0);
        let offers = missing.fold(0, |all, (_, offer)| all | offer);
        if offers == 0 {
            return Ok(Some(Prepared { _withheld: None }));
        }
        // Where that fails the connection is made with all offers, and the flow keeps its sockets.
        let attached =
            sys::route(None, server.ip()).is_ok_and(|route| self.packet.attach(route.device).is_ok());
        let withheld =
            if attached { Some(self.packet.withhold(sys::cookie(socket)?, offers)?) } else { None };
        Ok(Some(Prepared { _withheld: withheld }))
    }
}

/// See [`Road::prepare`].
pub(crate) struct Prepared<'a> {
    _withheld: Option<crate::kernel::packet::Withheld<'a>>,
}

/// Whether an upstream's flows may leave their sockets.
pub(crate) fn is_wanted(snapshot: &Snapshot) -> bool {
    use proxy_common::plan::Choice;
    snapshot.upstreams.iter().any(|upstream| upstream.datapath == Choice::Only(Datapath::Packet))
}

impl Carriers {
    /// Carries a flow whose upstream's datapath this is.
    pub(super) async fn by_packet(&self, flow: &Flow, mut pair: Pair) -> Outcome {
        let Some(road) = &self.road else {
            self.fall_back(flow, Datapath::Packet, Fallback::Unavailable);
            return self.copy_to_the_end(flow, &mut pair).await;
        };
        // Of the sockets, beside what copies: to ask them, and to close them in another way.
        let sockets = match duplicates(&pair) {
            Ok(sockets) => sockets,
            Err(error) => return Outcome::Ended(internal(flow, [0; 2], &error)),
        };
        let way = {
            let _active = self.begin(flow, Datapath::Copy);
            let mut copying = std::pin::pin!(copy::carry(&self.hub, flow, &mut pair, None));
            // Dropped before what copies: a flow that ends by itself is watched no more when its sockets are closed.
            let mut leaving = std::pin::pin!(leave::leave(road, self, flow, &sockets));
            tokio::select! {
                biased;
                way = &mut leaving => way,
                copied = &mut copying => match copied {
                    Copied::Ended(carried) => return Outcome::Ended(carried),
                    Copied::Due => Way::Broken(End { reason: Reason::Internal, side: None }),
                },
            }
        };
        self.hub.meters.carried(flow, flow.copied());
        match way {
            Way::Free(keys) => {
                flow.facts().keys = Some(keys);
                let active = self.begin(flow, Datapath::Packet);
                Outcome::Left(Departed { road: Arc::clone(road), keys, active })
            }
            // Closing resets both.
            Way::Broken(end) => Outcome::Ended(Carried { end, bytes: flow.copied() }),
        }
    }

    async fn copy_to_the_end(&self, flow: &Flow, pair: &mut Pair) -> Outcome {
        Outcome::Ended(match self.copy(flow, pair, None).await {
            Copied::Ended(carried) => carried,
            Copied::Due => internal(flow, flow.copied(), &io::ErrorKind::TimedOut.into()),
        })
    }
}

fn duplicates(pair: &Pair) -> io::Result<[OwnedFd; 2]> {
    Ok([pair.client.as_fd().try_clone_to_owned()?, pair.upstream.as_fd().try_clone_to_owned()?])
}

impl Departed {
    /// Leaves the flow to the lot. Its story is told when it ends.
    pub(crate) fn park(self, entry: crate::hub::Entry<'_>, story: Story) {
        let flow = entry.park();
        self.road.park(lot::Parked::new(flow, story, self.keys, self.active));
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

/// Whether packets of the flow go past its sockets: these are not told of its end any more.
pub(super) fn is_leaving(flow: &Flow) -> bool {
    flow.leaving.load(Ordering::Relaxed)
}

/// The longest that a hand-over tries before it lets the flow be for a while.
const PATIENCE: Duration = Duration::from_secs(3);
