//! Carrying the bytes of an established pair of connections, to their end.
//!
//! The contract of every datapath: it takes a [`Pair`] from which nothing was read, and either refuses it untouched or
//! carries it until both connections are closed. Bytes arrive once and in order; an end is passed on as an end, after the last
//! byte; a reset as a reset. While a flow lives, closing its sockets in any unforeseen way resets them, so that a
//! cut stream never looks complete.

mod buffers;
mod copy;
mod local;
mod local_slow_path;
pub(crate) mod packet;
mod pipes;
mod pump;
mod slow_path;
mod sockmap;
mod teardown;
mod watch;
mod window;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use local::Bypass;
use proxy_common::flow::{End, Reason, Sides};
use proxy_common::plan::{self, Choice, Datapath, Fallback, Host, Skip, Use};
use tokio::net::TcpStream;

use self::copy::{Copied, Due};
use self::packet::{Departed, PacketDatapath};
use self::sockmap::{Spliced, Trace};
use self::watch::Watch;

use crate::hub::{Active, Bytes, Flow, Hub, LogThrottle, Stage};
pub(crate) use crate::kernel::Handle as SockmapHandle;
use crate::sys;

/// Two connections that become one flow.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) upstream: TcpStream,
}

impl Pair {
    const fn sockets(&self) -> Sides<&TcpStream> {
        Sides::new(&self.client, &self.upstream)
    }
}

/// A pair that no datapath of the kernel's takes, and what the kernel still knows of it: to be dropped after it is closed.
type Left<'a> = (Pair, Option<Box<Trace<'a>>>);

/// What a worker's flows are carried with.
pub(crate) struct Carriers {
    pub(crate) hub: Arc<Hub>,
    /// None: this host cannot splice by sockmap.
    sockmap: Option<(SockmapHandle, Watch)>,
    /// None: no upstream wants it, or this host cannot.
    pub(crate) packet: Option<Arc<PacketDatapath>>,
    host: Host,
}

/// What became of a flow.
pub(crate) enum Outcome {
    Ended(Carried),
    /// It goes on without sockets.
    Left(Departed),
}

/// A flow that has ended: why, and the bytes that each peer was given, client to upstream first.
pub(crate) struct Carried {
    pub(crate) end: End,
    pub(crate) bytes: Bytes,
}

impl Carriers {
    /// To be made inside the worker's runtime, in its thread.
    pub(crate) fn new(
        hub: Arc<Hub>,
        sockmap: Option<SockmapHandle>,
        packet: Option<Arc<PacketDatapath>>,
        host: Host,
    ) -> io::Result<Self> {
        pipes::allow(hub.connection_limit.pipes());
        let sockmap = sockmap.map(|handle| Watch::start(&hub).map(|watch| (handle, watch))).transpose()?;
        Ok(Self { hub, sockmap, packet, host })
    }

    fn host(&self) -> Host {
        let lost = self.hub.sockmap_lost.load(Ordering::Relaxed);
        if lost { Host { packet: self.host.packet, ..Host::default() } } else { self.host }
    }

    /// Whether there is something to hand a copied flow over to.
    fn can_splice(&self) -> bool {
        plan::plan(Choice::Auto, self.host(), false).len() > 1
    }

    /// Carries `pair` to its end by the best datapath that takes it.
    pub(crate) async fn carry(&self, flow: &Flow, pair: Pair, choice: Choice) -> Outcome {
        flow.facts().stage = Stage::Carry;
        // The upstream's is armed since before it was connected.
        if let Err(error) = sys::reset_on_close(&pair.client, true) {
            return Outcome::Ended(internal(flow, [0; 2], &error));
        }
        // Boxed, as all that follows: each flow has room for its own way only.
        match choice {
            Choice::Only(Datapath::Packet) => return Box::pin(self.by_packet(flow, pair)).await,
            Choice::Auto if flow.config.may_leave(choice) => {
                if let Some(outcome) = Box::pin(self.by_packet_if_it_can(flow, &pair)).await {
                    return outcome;
                }
            }
            Choice::Auto | Choice::Only(_) => {}
        }
        Outcome::Ended(self.carry_by_sockets(flow, pair, choice).await)
    }

    async fn carry_by_sockets(&self, flow: &Flow, pair: Pair, choice: Choice) -> Carried {
        let near =
            choice != Choice::Only(Datapath::Copy) && self.host().local != Use::Unavailable && is_near(&pair);
        let plan = plan::plan(choice, self.host(), near);
        if let Some(patience) = plan::patience(choice, &plan) {
            match self.copy(flow, &pair, Due::At(Instant::now() + patience), None).await {
                Copied::Ended(carried) => return carried,
                // What was copied counts for copy, though the flow goes on otherwise.
                Copied::Due => flow.count(&self.hub.meters, flow.copied()),
            }
        }
        let (pair, trace) = match self.splice(flow, pair, &plan) {
            Ok((mut spliced, datapath)) => {
                self.hub.flows.know_places(flow, spliced.places());
                let _active = self.begin(flow, datapath);
                return Box::pin(spliced.carry(&self.hub, flow)).await;
            }
            Err(refused) => *refused,
        };
        for datapath in [Datapath::Local, Datapath::Sockmap] {
            if plan::skip(choice, self.host(), near, datapath) == Some(Skip::Unavailable) {
                self.hub.meters.fell_back(datapath, Fallback::Unavailable);
            }
        }
        let carried = match self.copy(flow, &pair, Due::Never, trace.as_deref()).await {
            Copied::Ended(carried) => carried,
            Copied::Due => internal(flow, flow.copied(), &io::ErrorKind::TimedOut.into()),
        };
        drop(pair);
        drop(trace);
        carried
    }

    async fn copy(&self, flow: &Flow, pair: &Pair, due: Due<'_>, trace: Option<&Trace<'_>>) -> Copied {
        self.copy_as(Datapath::Copy, flow, pair, due, trace).await
    }

    /// The same for a flow that counts as carried by `carried`.
    async fn copy_as(
        &self,
        carried: Datapath,
        flow: &Flow,
        pair: &Pair,
        due: Due<'_>,
        trace: Option<&Trace<'_>>,
    ) -> Copied {
        let _active = self.begin(flow, carried);
        Box::pin(copy::carry(&self.hub, flow, pair.sockets(), due, trace)).await
    }

    /// Hands `pair` to the first datapath of `plan` that takes it. Err: none does.
    fn splice<'a>(
        &'a self,
        flow: &Flow,
        pair: Pair,
        plan: &[Datapath],
    ) -> Result<(Box<Spliced<'a>>, Datapath), Box<Left<'a>>> {
        let Some((handle, watch)) = &self.sockmap else { return Err(Box::new((pair, None))) };
        for &datapath in plan.iter().filter(|datapath| **datapath != Datapath::Copy) {
            let bypass = match self.bypass(datapath, handle, &pair) {
                Ok(bypass) => bypass,
                Err(reason) => {
                    self.fall_back(flow, datapath, reason);
                    continue;
                }
            };
            return match sockmap::take_over(handle, watch, flow, pair, bypass) {
                Ok(spliced) => Ok((Box::new(spliced), datapath)),
                Err(refused) => {
                    // What the kernel does not take for one of its datapaths it does not take for another.
                    self.fall_back(flow, datapath, refused.reason);
                    Err(Box::new((refused.pair, refused.trace)))
                }
            };
        }
        Err(Box::new((pair, None)))
    }

    fn bypass<'a>(
        &self,
        datapath: Datapath,
        handle: &'a SockmapHandle,
        pair: &Pair,
    ) -> Result<Option<Bypass<'a>>, Fallback> {
        match datapath {
            Datapath::Local => Bypass::find(handle, &pair.client, &pair.upstream).map(Some),
            Datapath::Sockmap | Datapath::Copy | Datapath::Packet => Ok(None),
        }
    }

    fn fall_back(&self, flow: &Flow, from: Datapath, reason: Fallback) {
        self.hub.meters.fell_back(from, reason);
        tracing::debug!(flow = flow.id, datapath = from.name(), reason = reason.label(), "not taken");
    }

    fn begin(&self, flow: &Flow, datapath: Datapath) -> Active {
        let route = {
            let mut facts = flow.facts();
            facts.datapath = Some(datapath);
            Arc::clone(&facts.route)
        };
        self.hub.meters.active(&route, datapath)
    }
}

/// Whether the server may be on this host.
fn is_near(pair: &Pair) -> bool {
    local::ends(&pair.upstream).is_ok_and(|ends| ends.are_on_one_host())
}

/// An operating system error where none should be: the flow is reset.
fn internal(flow: &Flow, bytes: Bytes, error: &io::Error) -> Carried {
    static COMPLAINT: LogThrottle = LogThrottle::new();
    if COMPLAINT.is_due() {
        tracing::warn!(flow = flow.id, %error, "flow reset: the system refused what it should not");
    }
    Carried { end: End { reason: Reason::Internal, side: None }, bytes }
}
