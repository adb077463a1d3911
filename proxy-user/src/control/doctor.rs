//! `snisplice doctor`: what this host can do, and what to change.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::Serialize;

use super::{Exit, Failure, guard};
use crate::{kernel, sys};

/// Two descriptors for each flow, and a few for the daemon.
const FILES_FOR_A_FLEET: u64 = 10_000;

/// How a finding bears on the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// The daemon runs, with less.
    Warning,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    /// What to change, where something is to be.
    remedy: Option<String>,
}

/// All findings.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    kernel: String,
    /// What `datapath = "auto"` takes here.
    datapath: &'static str,
    findings: Vec<Finding>,
}

/// Looks at this host, as this user.
pub(crate) fn examine() -> Report {
    let (sockmap, local) = datapaths();
    let datapath = if sockmap.level == Level::Ok { "sockmap" } else { "copy" };
    let mut findings = capabilities();
    findings.extend([sockmap, local, guard(), low_ports(), dual_stack(), open_files()]);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Report { version: env!("CARGO_PKG_VERSION"), kernel: release.trim().to_owned(), datapath, findings }
}

/// Removes what the packet datapath has pinned; says what that was.
pub(crate) fn clean(pins: &Path) -> Result<String, Failure> {
    match kernel::packet::clean(pins) {
        Ok(Some(flows)) => Ok(format!("removed; {flows} flows without sockets are over\n")),
        Ok(None) => Ok(format!("nothing is pinned at {} in this network namespace\n", pins.display())),
        Err(error) => {
            let exit = match error.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::System,
            };
            Err(Failure::new(exit, format_args!("cannot clean {}: {error}", pins.display())))
        }
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self, colour: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "snisplice {} on Linux {}", self.version, self.kernel);
        for Finding { check, level, found, remedy } in &self.findings {
            let mark = match (level, colour) {
                (Level::Ok, true) => "\x1b[32mok  \x1b[0m",
                (Level::Ok, false) => "ok  ",
                (Level::Warning, true) => "\x1b[33mwarn\x1b[0m",
                (Level::Warning, false) => "warn",
            };
            let _ = writeln!(out, "{mark}  {check:<20} {found}");
            if let Some(remedy) = remedy {
                let _ = writeln!(out, "      {:<20} -> {remedy}", "");
            }
        }
        let _ = writeln!(out, "flows with datapath \"auto\" are carried by: {}", self.datapath);
        out
    }
}

fn finding(check: &'static str, found: impl Into<String>, remedy: Option<String>) -> Finding {
    let level = if remedy.is_some() { Level::Warning } else { Level::Ok };
    Finding { check, level, found: found.into(), remedy }
}

fn capabilities() -> Vec<Finding> {
    let Some(held) = sys::capabilities() else {
        let remedy = Some("mount /proc".to_owned());
        return vec![finding("capabilities", "/proc/self/status does not tell", remedy)];
    };
    let one = |check, held: bool, use_: &str| {
        let remedy = format!("run as root, or grant {check} (systemd: AmbientCapabilities={check})");
        let found = if held { "held" } else { "missing" };
        finding(check, format!("{found}: {use_}"), (!held).then_some(remedy))
    };
    vec![
        one("CAP_BPF", held.bpf(), "to load BPF programs"),
        one("CAP_NET_ADMIN", held.net_admin(), "to make maps of sockets"),
        one("CAP_PERFMON", held.perfmon(), "to let them see what a socket's peer has acknowledged"),
    ]
}

fn datapaths() -> (Finding, Finding) {
    let probed = kernel::probe(false, true);
    let passed = format!("self-test passed in {} ms", probed.took.as_millis());
    let sockmap = match probed.sockmap {
        Ok(_) => match probed.caution {
            None => finding("datapath sockmap", passed, None),
            Some(caution) => {
                let found = format!("{passed}, but \"auto\" copies: {}", caution.what);
                finding("datapath sockmap", found, Some(caution.remedy))
            }
        },
        Err(reason) => finding("datapath sockmap", reason.what, Some(reason.remedy)),
    };
    let local = match probed.local {
        Some(Ok(kernel::Local { noticed: None })) => {
            finding("datapath local", "self-test passed; \"auto\" takes it for servers on this host", None)
        }
        // No warning: nothing is wrong with this host.
        Some(Ok(kernel::Local { noticed: Some(noticed) })) => finding(
            "datapath local",
            format!("self-test passed; only for upstreams with datapath = \"local\", since {noticed}"),
            None,
        ),
        Some(Err(reason)) => finding("datapath local", reason.what, Some(reason.remedy)),
        None => finding("datapath local", "not tried", None),
    };
    (sockmap, local)
}

/// Whether the guard could be used, and where it is. Nothing is attached for that.
fn guard() -> Finding {
    match guard::try_load() {
        Ok(()) => {
            let running = guard::command::running();
            let found = running.map_or_else(
                || "the kernel takes the program; attached where [guard] says so".to_owned(),
                |running| format!("in use by the running daemon: {running}"),
            );
            finding("guard", found, None)
        }
        Err(reason) => finding("guard", reason.what, Some(reason.remedy)),
    }
}

fn low_ports() -> Finding {
    let first: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    let may = first <= 443 || sys::capabilities().is_some_and(sys::Capabilities::net_bind_service);
    let remedy = "run as root, or grant CAP_NET_BIND_SERVICE";
    let found = if may { "allowed" } else { "not allowed" };
    finding("listen on port 443", found, (!may).then(|| remedy.to_owned()))
}

fn dual_stack() -> Finding {
    match sys::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), false, None) {
        Ok(_) => finding("IPv6", "[::] can be listened on, for IPv4 too", None),
        Err(error) => {
            let remedy = "set address = [\"0.0.0.0:443\"] in [[listen]]".to_owned();
            finding("IPv6", format!("[::] cannot be listened on: {error}"), Some(remedy))
        }
    }
}

fn open_files() -> Finding {
    let (_, hard) = sys::open_file_limit();
    match hard {
        None => finding("open files", "unlimited", None),
        Some(limit) => {
            let found = format!("at most {limit}: about {} flows", limit.saturating_sub(100) / 2);
            let remedy = format!(
                "raise the hard limit (systemd: LimitNOFILE=) if more are expected; {limit} is little"
            );
            finding("open files", found, (limit < FILES_FOR_A_FLEET).then_some(remedy))
        }
    }
}
