//! From checked parts to the snapshot that the front reads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::plan::Choice;
use proxy_common::route::{Route, Table};

use crate::hub::Server;
use crate::hub::UpstreamRegistry;
use crate::hub::snapshot::{Admin, Guard, Limits, Listener, Packet, Snapshot, Timeouts, Upstream};

/// The parts of a configuration. Complete only when the report that they came with has no error. An upstream that
/// another part names is its place in `upstreams`; None: the name is wrong.
pub(super) struct Checked {
    pub(super) listeners: Vec<CheckedListener>,
    pub(super) routes: Vec<Route<Option<usize>>>,
    pub(super) upstreams: Vec<CheckedUpstream>,
    pub(super) admin: Admin,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) guard: Option<Guard>,
    pub(super) packet: Packet,
}

pub(super) struct CheckedListener {
    pub(super) name: Arc<str>,
    pub(super) addresses: Vec<SocketAddr>,
    /// None: the listener names no upstream.
    pub(super) to: Option<Option<usize>>,
}

pub(super) struct CheckedUpstream {
    pub(super) name: Arc<str>,
    pub(super) servers: Vec<Server>,
    pub(super) datapath: Choice,
    pub(super) hold: Duration,
}

/// Servers that `registry` knows keep what is known of them. None: a part names an upstream that is not there,
/// which the report says.
pub(super) fn compile(checked: Checked, registry: &UpstreamRegistry) -> Option<Snapshot> {
    registry.forget_unused();
    let upstreams: Vec<_> =
        checked.upstreams.into_iter().map(|one| Arc::new(upstream(one, registry))).collect();
    let find = |place: Option<usize>| upstreams.get(place?).cloned();
    let listener = |CheckedListener { name, addresses, to }| {
        let to = match to {
            Some(place) => Some(find(place)?),
            None => None,
        };
        Some(Arc::new(Listener { name, addresses, to }))
    };
    let route =
        |Route { name, sni, source, to, default }| Some(Route { name, sni, source, to: find(to)?, default });
    Some(Snapshot {
        epoch: 0,
        listeners: checked.listeners.into_iter().map(listener).collect::<Option<_>>()?,
        routes: Table::build(checked.routes.into_iter().map(route).collect::<Option<_>>()?),
        upstreams,
        admin: checked.admin,
        timeouts: checked.timeouts,
        limits: checked.limits,
        guard: checked.guard,
        packet: checked.packet,
    })
}

fn upstream(checked: CheckedUpstream, registry: &UpstreamRegistry) -> Upstream {
    let CheckedUpstream { name, servers, datapath, hold } = checked;
    let endpoints = servers.into_iter().map(|server| registry.endpoint(&name, server)).collect();
    Upstream { name, endpoints, datapath, hold }
}
