//! The last that is heard of a connection: its bytes and reason in the meters, and one line in the log.

use std::time::Duration;

use proxy_common::flow::{End, Side};
use proxy_common::plan::Datapath;

use super::{Bytes, Closed, EndpointUse, Established, Flow, Hub, SourcePermit};

/// What the access log tells of the way to a flow. Every connection keeps it as long as it lives.
#[derive(Default)]
pub(crate) struct AccessRecord {
    /// What it opened with, or why it cannot be routed.
    pub(crate) hello: Option<&'static str>,
    /// Until the hello was there. Times of more than 49 days are cut to that.
    pub(crate) hello_ms: Option<u32>,
    /// Until a server had taken it.
    pub(crate) connect_ms: Option<u32>,
    /// Why no server took it.
    pub(crate) error: Option<Box<str>>,
    /// For how long an earlier daemon had it.
    pub(crate) before: Duration,
    /// As long as it lives, the guard knows that its client has a flow.
    pub(crate) established: Option<Established>,
    /// As long as it lives, the connection counts for its server.
    pub(crate) endpoint: Option<EndpointUse>,
    /// Its place among the connections of its client.
    pub(crate) source_permit: Option<SourcePermit>,
}

impl AccessRecord {
    /// Ends it.
    pub(crate) fn settle(&mut self, hub: &Hub, flow: &Flow, end: End, bytes: Bytes) {
        // Before the record: whoever reads that may count on the place.
        drop((self.source_permit.take(), self.endpoint.take()));
        flow.count(&hub.meters, bytes);
        let facts = flow.facts().clone();
        let [bytes_in, bytes_out] = bytes;
        hub.meters.closed(&Closed { route: &facts.route, reason: end.reason });
        let duration = self.before + flow.accepted.elapsed();
        tracing::info!(
            target: "access",
            id = flow.id,
            client = %flow.client,
            listener = %flow.listener,
            hello = self.hello,
            sni = facts.sni,
            route = %facts.route,
            upstream = facts.upstream.as_deref(),
            server = facts.server.map(tracing::field::display),
            upstream_local = facts.upstream_local.map(tracing::field::display),
            datapath = facts.datapath.map(Datapath::name),
            bytes_in,
            bytes_out,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            hello_ms = self.hello_ms,
            connect_ms = self.connect_ms,
            reason = end.reason.label(),
            error = self.error.as_deref().or(flow.untold.get().map(String::as_str)),
            side = end.side.map(Side::name),
            "closed",
        );
    }
}

/// For a [`AccessRecord`].
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
