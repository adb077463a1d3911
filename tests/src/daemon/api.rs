//! What the daemon says about itself: the admin interface and the access log.
#![expect(missing_docs, reason = "the fields are those of the interface, which docs/ describes")]

use serde::Deserialize;

/// `/api/v1/status`
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    pub phase: String,
    pub datapaths: Datapaths,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
    pub connections: Connections,
    pub kernel: Option<Kernel>,
    pub packet: Option<Packet>,
}

/// What the programs of the packet datapath have counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Packet {
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub walked: u64,
    pub untranslatable: u64,
    pub errors: u64,
    pub copied: u64,
    pub refreshed: u64,
    pub invalid: u64,
    pub no_route: u64,
    pub moved: u64,
    pub aged: u64,
    pub too_big: u64,
    pub missed: u64,
    pub untracked: u64,
    pub held: u64,
}

/// The datapaths of the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Datapaths {
    pub packet: DatapathState,
    pub local: DatapathState,
    pub sockmap: DatapathState,
    pub copy: DatapathState,
}

/// If a datapath can be used on this host, and why not.
#[derive(Debug, Clone, Deserialize)]
pub struct DatapathState {
    pub available: bool,
    pub reason: Option<String>,
}

/// A listener of the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Listener {
    pub name: String,
    pub addresses: Vec<String>,
}

/// An upstream of the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Upstream {
    pub name: String,
    pub servers: Vec<Server>,
}

/// A server of an upstream, as far as connections have shown.
#[derive(Debug, Clone, Deserialize)]
pub struct Server {
    pub server: String,
    pub state: String,
    pub since_seconds: f64,
    pub failures: u64,
    pub last_reason: Option<String>,
    pub last_error: Option<String>,
}

/// The connection counts of the status.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Connections {
    pub active: u64,
    pub accepted: u64,
}

/// What the kernel programs counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Kernel {
    pub redirected_bytes: u64,
    pub redirected_segments: u64,
    pub passed_bytes: u64,
    pub redirect_failures: u64,
    pub bypassed_bytes: u64,
    pub lost_events: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Flows {
    pub(super) flows: Vec<Flow>,
}

/// One flow of `/api/v1/flows`.
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    pub id: u64,
    pub client: String,
    pub listener: String,
    pub sni: Option<String>,
    pub route: Option<String>,
    pub upstream: Option<String>,
    pub server: Option<String>,
    pub upstream_local: Option<String>,
    pub datapath: Option<String>,
    pub phase: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub age_seconds: f64,
    pub idle_seconds: f64,
    pub obstacle: Option<String>,
}

/// One record of the access log. A connection that went nowhere has no route, and no upstream.
#[derive(Debug, Clone, Deserialize)]
pub struct Access {
    pub client: String,
    pub listener: String,
    pub sni: Option<String>,
    pub route: Option<String>,
    pub upstream: Option<String>,
    pub server: Option<String>,
    pub upstream_local: Option<String>,
    pub datapath: Option<String>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    pub hello_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub reason: String,
    pub side: Option<String>,
    pub hello: Option<String>,
    pub error: Option<String>,
}

impl Access {
    /// The record in a line of the log; `None` for lines that are about something else.
    ///
    /// A line that is an access record but has not the fields of one shows up as a missing record in the tests.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        if value.get("target")?.as_str()? != "access" {
            return None;
        }
        serde_json::from_value(value).ok()
    }
}
