//! What the endpoint says, as data.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_common::abi::packet::Key;
use proxy_common::flow::ConnectFailure;
use proxy_common::plan::Datapath;
use serde::Serialize;

use super::Admin;
use crate::control::guard::{Guard, Interface};
use crate::hub::snapshot::Upstream;
use crate::hub::{Bytes, Endpoint, Flow, Hub, Phase};
use crate::kernel::{Kernel, KernelCounters, LOST, Packet, PacketCounters, Sockmap, Unavailable};
use crate::sys;

impl Kernel {
    /// Why flows do not leave their sockets. None: they do.
    pub(super) fn packet_unavailable(&self) -> Option<String> {
        match self.found() {
            Some(Ok(packet)) if !packet.takes_new && self.packet_caution.is_none() => Some(format!(
                "not configured; connections that an earlier snisplice has offloaded are looked after (pins: {})",
                packet.pins().display()
            )),
            Some(Ok(packet)) if packet.takes_new => packet.hindrance(),
            Some(Err(reason)) => Some(reason.to_string()),
            Some(Ok(_)) | None => Some(
                self.packet_by_name().unwrap_or_else(|| "not configured (add a [packet] section)".to_owned()),
            ),
        }
    }

    /// Why servers on this host are not captured. None: they are, where that was found good.
    fn local_unavailable(&self, hub: &Hub) -> Option<String> {
        match &self.local {
            Some(Ok(_)) => self.unavailable(hub),
            Some(Err(reason)) => Some(reason.to_string()),
            None => Some("not configured (no upstream has a server on this host)".to_owned()),
        }
    }

    /// The first of the datapaths that the configuration asks for that is not to be had, and why.
    pub(super) fn lacks(&self, hub: &Hub) -> Option<String> {
        hub.config.current().admin.ready_requires.iter().find_map(|datapath| {
            let reason = match datapath {
                Datapath::Packet => self.packet_unavailable(),
                Datapath::Local => self.local_unavailable(hub),
                Datapath::Sockmap => self.unavailable(hub),
                Datapath::Copy => None,
            };
            reason.map(|reason| format!("no {} datapath: {reason}\n", datapath.name()))
        })
    }

    fn packet_status(&self) -> Availability {
        let reason = self.packet_unavailable();
        let available = reason.is_none();
        // That something is wrong with pins matters to the next daemon only.
        let reason = reason.or_else(|| self.packet_by_name());
        Availability { available, reason: reason.or_else(|| self.packet()?.pins_trouble()) }
    }

    /// Why only upstreams that name it are offloaded.
    fn packet_by_name(&self) -> Option<String> {
        self.packet_caution.as_ref().map(|caution| format!("not used by \"auto\": {caution}"))
    }

    fn sockmap_status(&self, hub: &Hub) -> Availability {
        let unavailable = self.unavailable(hub);
        let available = unavailable.is_none();
        let by_name = || self.caution.as_ref().map(|caution| format!("not used by \"auto\": {caution}"));
        Availability { available, reason: unavailable.or_else(by_name) }
    }

    fn local_status(&self) -> Availability {
        let reason = match &self.local {
            Some(Ok(local)) => local.noticed.as_ref().map(|noticed| format!("off by default: {noticed}")),
            Some(Err(reason)) => Some(reason.to_string()),
            None => Some("not configured (no upstream has a server on this host)".to_owned()),
        };
        Availability { available: matches!(self.local, Some(Ok(_))), reason }
    }
}

impl Kernel {
    /// Why flows are not spliced. None: they are.
    pub(super) fn unavailable(&self, hub: &Hub) -> Option<String> {
        match &self.sockmap {
            Err(reason) => Some(reason.to_string()),
            Ok(_) => hub.sockmap_lost.load(Ordering::Relaxed).then(|| LOST.to_owned()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    pid: u32,
    uptime_seconds: u64,
    phase: &'static str,
    datapaths: Datapaths,
    listeners: Vec<ListenerStatus>,
    upstreams: Vec<UpstreamStatus>,
    connections: Connections,
    kernel: Option<KernelCounters>,
    packet: Option<PacketCounters>,
    guard: Option<GuardStatus>,
}

/// The guard, where one is configured.
#[derive(Serialize)]
struct GuardStatus {
    dry_run: bool,
    interfaces: Vec<Interface>,
    /// Why there is none at all.
    reason: Option<String>,
}

#[derive(Serialize)]
struct Datapaths {
    packet: Availability,
    local: Availability,
    sockmap: Availability,
    copy: Availability,
}

#[derive(Serialize)]
struct Availability {
    available: bool,
    reason: Option<String>,
}

#[derive(Serialize)]
struct ListenerStatus {
    name: String,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct UpstreamStatus {
    name: String,
    servers: Vec<ServerStatus>,
}

/// What attempts to connect to a server have shown.
#[derive(Serialize)]
struct ServerStatus {
    server: String,
    /// `up`, `down`, or `unknown` if nobody has tried.
    state: &'static str,
    /// For so long it is in this state.
    since_seconds: u64,
    /// That it has now.
    connections: u64,
    failures: u64,
    /// Of the last failure, as in `snisplice_upstream_connect_failures_total`.
    last_reason: Option<&'static str>,
    last_error: Option<String>,
}

fn upstream_statuses(hub: &Hub) -> Vec<UpstreamStatus> {
    let status = |endpoint: &Arc<Endpoint>| {
        let report = endpoint.report();
        let (last_reason, last_error) = report.last_error.unzip();
        ServerStatus {
            server: report.server.to_string(),
            state: report.state.name(),
            since_seconds: report.since.as_secs(),
            connections: report.active,
            failures: report.failures,
            last_reason: last_reason.map(ConnectFailure::label),
            last_error,
        }
    };
    let of = |upstream: &Arc<Upstream>| UpstreamStatus {
        name: upstream.name.to_string(),
        servers: upstream.endpoints.iter().map(status).collect(),
    };
    hub.config.current().upstreams.iter().map(of).collect()
}

#[derive(Serialize)]
struct Connections {
    active: usize,
    accepted: u64,
}

pub(super) fn status(admin: &Admin) -> Status {
    let hub = &admin.hub;
    let sockmap = admin.kernel.sockmap.as_ref();
    let config = hub.config.current();
    let listeners = config.listeners.iter().map(|listener| ListenerStatus {
        name: listener.name.to_string(),
        addresses: listener.addresses.iter().map(ToString::to_string).collect(),
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_seconds: hub.started.elapsed().as_secs(),
        phase: if hub.phases.now() == Phase::Running { "running" } else { "draining" },
        datapaths: Datapaths {
            packet: admin.kernel.packet_status(),
            local: admin.kernel.local_status(),
            sockmap: admin.kernel.sockmap_status(hub),
            copy: Availability { available: true, reason: None },
        },
        listeners: listeners.collect(),
        upstreams: upstream_statuses(hub),
        connections: Connections { active: hub.flows.count(), accepted: hub.flows.accepted() },
        kernel: sockmap.ok().map(Sockmap::counters),
        packet: admin.kernel.packet().map(|packet| packet.counters()),
        guard: admin.guard.as_ref().map(guard_status),
    }
}

fn guard_status(guard: &Result<Arc<Guard>, Unavailable>) -> GuardStatus {
    match guard {
        Ok(guard) => {
            let report = guard.report();
            GuardStatus { dry_run: report.dry_run, interfaces: report.interfaces, reason: None }
        }
        Err(reason) => {
            GuardStatus { dry_run: false, interfaces: Vec::new(), reason: Some(reason.to_string()) }
        }
    }
}

/// What the maps say of a flow that has no sockets.
fn of_packet<T>(kernel: &Kernel, flow: &Flow, ask: impl Fn(&Packet, &[Key; 2]) -> Option<T>) -> Option<T> {
    let packet = kernel.packet()?;
    let keys = flow.facts().keys.as_deref().copied()?;
    ask(packet, &keys)
}

/// For how long no byte of a live flow has moved, whoever carries them.
pub(super) fn rested(kernel: &Kernel, flow: &Flow) -> Duration {
    if of_packet(kernel, flow, Packet::bytes).is_some_and(|bytes| !flow.is_still_at(bytes)) {
        // The daemon has not looked at it since: its last packet brought some of these, as far as can be told.
        return of_packet(kernel, flow, Packet::rested).unwrap_or_default();
    }
    let places = flow.facts().places;
    let Ok(sockmap) = &kernel.sockmap else { return flow.rested() };
    let directions = places.into_iter().flatten().filter_map(|place| sockmap.direction(place));
    directions.fold(flow.rested(), |rested, direction| rested.min(sys::since(direction.active_ns)))
}

/// With more flows than this, bytes of those without sockets are counted when they are looked at anyway: to ask for those of a million
/// takes seconds.
const CROWD: usize = 10_000;

/// Brings the byte counters up to date for flows that are alive.
pub(super) fn count_live_bytes(admin: &Admin) {
    let flows = admin.hub.flows.list();
    let is_crowd = flows.len() > CROWD;
    for flow in flows.into_iter().filter(|flow| !is_crowd || flow.facts().keys.is_none()) {
        flow.count(&admin.hub.meters, carried(&admin.kernel, &flow));
    }
}

/// Bytes of a live flow, whoever carries them; client to upstream first.
pub(super) fn carried(kernel: &Kernel, flow: &Flow) -> Bytes {
    if let Some(bytes) = of_packet(kernel, flow, Packet::bytes) {
        return bytes;
    }
    let mut bytes = flow.copied();
    let places = flow.facts().places;
    if let (Some(places), Ok(sockmap)) = (places, &kernel.sockmap) {
        for (bytes, place) in bytes.iter_mut().zip(places) {
            // A direction that has just gone belongs to a flow that is settling its bytes itself.
            let direction = sockmap.direction(place).unwrap_or_default();
            *bytes += direction.redirected + direction.taken + direction.beside;
        }
    }
    bytes
}
