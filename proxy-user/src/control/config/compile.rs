//! From checked parts to the snapshot that the front reads.

use std::sync::Arc;

use proxy_common::route::{Route, Table};

use crate::hub::snapshot::{Admin, Guard, Limits, Listener, Packet, Snapshot, Timeouts, Upstream};

/// The parts of a configuration. Complete only when the report that they came with has no error.
pub(super) struct Checked {
    pub(super) listeners: Vec<Listener>,
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) admin: Admin,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) guard: Option<Guard>,
    pub(super) packet: Packet,
}

pub(super) fn compile(checked: Checked) -> Snapshot {
    Snapshot {
        listeners: checked.listeners.into_iter().map(Arc::new).collect(),
        routes: Table::build(checked.routes),
        upstreams: checked.upstreams.into_iter().map(Arc::new).collect(),
        admin: checked.admin,
        timeouts: checked.timeouts,
        limits: checked.limits,
        guard: checked.guard,
        packet: checked.packet,
    }
}
