//! What the demo found out.

use harness::daemon::{Access, Kernel};
use harness::peers::tls::Wire;
use serde::Serialize;

/// Agents whose flows leave their sockets.
pub(crate) const AGENTS: usize = 5;
/// How many times each agent asks for work while there is no daemon.
pub(crate) const POLLS: usize = 5;

/// What became of the agents.
#[derive(Debug, Serialize)]
pub(crate) struct Outlived {
    /// Why flows cannot leave their sockets on this host.
    pub(crate) unavailable: Option<String>,
    /// Agents whose flows had left their sockets when the daemon was killed.
    pub(crate) agents: usize,
    /// Their polls that were answered while there was no daemon.
    pub(crate) polls_without_daemon: usize,
    /// Flows of them that the next daemon has found, and heard end in order.
    pub(crate) ended_in_order: usize,
    /// Packets that the programs have translated.
    pub(crate) forwarded_packets: u64,
}

impl Outlived {
    /// True when no agent has noticed anything, or the host cannot do it.
    pub(crate) fn is_good(&self) -> bool {
        self.unavailable.is_some()
            || (self.agents == AGENTS
                && self.polls_without_daemon == AGENTS * POLLS
                && self.ended_in_order == AGENTS
                && self.forwarded_packets > 0)
    }

    pub(crate) fn without(reason: Option<String>) -> Self {
        let unavailable = Some(reason.unwrap_or_else(|| "no reason given".to_owned()));
        Self { unavailable, agents: 0, polls_without_daemon: 0, ended_in_order: 0, forwarded_packets: 0 }
    }
}

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// One line per connection of the story.
    pub(crate) visits: Vec<Visit>,
    /// The many connections in a row, if they were asked for.
    pub(crate) burst: Option<Burst>,
    /// Why the host cannot carry bytes in the kernel; `None` when it can.
    pub(crate) kernel_unavailable: Option<String>,
    /// The kernel's counters over the story.
    pub(crate) kernel: KernelCount,
    /// The agents whose daemon was killed.
    pub(crate) outlived: Outlived,
    /// What went wrong beside the connections, such as a complaint of a server.
    pub(crate) complaints: Vec<String>,
}

/// The kernel's counters before and after the story.
#[derive(Debug, Serialize)]
pub(crate) struct KernelCount {
    pub(crate) redirected_before: u64,
    pub(crate) redirected_after: u64,
    /// Bytes that the kernel programs handed to the daemon, because a reader was slow.
    pub(crate) passed: u64,
    pub(crate) segments: u64,
}

impl KernelCount {
    pub(crate) fn between(before: Kernel, after: Kernel) -> Self {
        Self {
            redirected_before: before.redirected_bytes,
            redirected_after: after.redirected_bytes,
            passed: after.passed_bytes.saturating_sub(before.passed_bytes),
            segments: after.redirected_segments.saturating_sub(before.redirected_segments),
        }
    }

    /// Bytes that went from socket to socket in the kernel.
    pub(crate) fn redirected(&self) -> u64 {
        self.redirected_after.saturating_sub(self.redirected_before)
    }
}

/// One connection: what its client did and counted, and what the daemon says of it.
#[derive(Debug, Serialize)]
pub(crate) struct Visit {
    /// Who connected, and for what.
    pub(crate) who: String,
    /// The server name of the hello, as the daemon saw it.
    pub(crate) name: Option<String>,
    /// The port of the edge.
    pub(crate) port: u16,
    pub(crate) route: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) datapath: Option<String>,
    /// Bytes from the client to the server, by the access log.
    pub(crate) bytes_in: u64,
    /// Bytes from the server to the client, by the access log.
    pub(crate) bytes_out: u64,
    /// The client got the certificate of the server that it wanted.
    pub(crate) certificate: bool,
    /// What was not as it should be.
    pub(crate) problems: Vec<String>,
}

impl Visit {
    /// Compares what the client counted with the access record of its connection.
    pub(crate) fn settled(who: &str, port: u16, upstream: &str, wire: &Wire, access: &Access) -> Self {
        let mut problems = Vec::new();
        let mut compare = |what: &str, found: String, expected: String| {
            if found != expected {
                problems.push(format!("{what} is {found} and should be {expected}"));
            }
        };
        compare("the upstream", access.upstream.clone().unwrap_or_default(), upstream.to_owned());
        compare("the bytes in of the log", access.bytes_in.to_string(), wire.sent.to_string());
        compare("the bytes out of the log", access.bytes_out.to_string(), wire.received.to_string());
        compare("the close reason", access.reason.clone(), "eof".to_owned());
        Self {
            who: who.to_owned(),
            name: access.sni.clone(),
            port,
            route: access.route.clone(),
            upstream: access.upstream.clone(),
            datapath: access.datapath.clone(),
            bytes_in: access.bytes_in,
            bytes_out: access.bytes_out,
            certificate: true,
            problems,
        }
    }

    /// A connection that did not work.
    pub(crate) fn failed(who: &str, port: u16, error: &anyhow::Error) -> Self {
        Self {
            who: who.to_owned(),
            name: None,
            port,
            route: None,
            upstream: None,
            datapath: None,
            bytes_in: 0,
            bytes_out: 0,
            certificate: false,
            problems: vec![format!("{error:#}")],
        }
    }
}

/// Many connections in a row.
#[derive(Debug, Serialize)]
pub(crate) struct Burst {
    pub(crate) opened: u32,
    pub(crate) lost: u32,
    pub(crate) seconds: f64,
    /// The first few errors.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// The report and its verdict.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Document<'report> {
            ok: bool,
            bytes: u64,
            kernel_bytes: u64,
            #[serde(flatten)]
            report: &'report Report,
        }
        let kernel_bytes = self.kernel.redirected();
        let document = Document { ok: self.is_good(), bytes: self.bytes(), kernel_bytes, report: self };
        serde_json::to_string_pretty(&document)
    }

    /// Bytes of all visits, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.visits.iter().map(|visit| visit.bytes_in + visit.bytes_out).sum()
    }

    /// True when the kernel carried the bytes, but for those that it handed over since their reader was slower than their
    /// sender. On one host, where both share the processors with whatever else runs, that can be nearly all of a package.
    pub(crate) fn kernel_carried(&self) -> bool {
        self.kernel.redirected() + self.kernel.passed == self.bytes() && self.kernel.redirected() > 0
    }

    /// True when all was as it should be on a host like this.
    pub(crate) fn is_good(&self) -> bool {
        self.visits.iter().all(|visit| visit.problems.is_empty())
            && self.burst.as_ref().is_none_or(|burst| burst.lost == 0)
            && self.complaints.is_empty()
            && self.outlived.is_good()
            && (self.kernel_carried() || self.kernel_unavailable.is_some())
    }
}
