//! `snisplice doctor`: what this host can do, and what to change.

mod ports;
mod report;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

pub(crate) use self::ports::listener;
pub(crate) use self::report::Report;
use self::report::{Finding, Level};
use super::{guard, paths, pinned};
use crate::{kernel, sys};

/// How a process may listen on ports below 1024.
pub(crate) const BIND: &str = "give the process CAP_NET_BIND_SERVICE (docker or podman run: --cap-add NET_BIND_SERVICE); in a rootless container, set \
                               net.ipv4.ip_unprivileged_port_start=443 on the host";

/// The port of the embedded default.
const PORT: u16 = 443;

/// `ports` of [packet] by default.
const PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// Two descriptors for each flow, and a few for the daemon.
const FILES_FOR_A_FLEET: u64 = 10_000;

/// Looks at this host, as this user.
pub(crate) fn examine(pins: &Path) -> Report {
    let (sockmap, local) = datapaths();
    let datapath = if sockmap.level == Level::Ok { "sockmap" } else { "copy" };
    let mut findings = capabilities();
    findings.extend([
        packet(pins),
        cards(),
        sockmap,
        local,
        guard(),
        port(),
        dual_stack(),
        open_files(),
        writers(pins),
    ]);
    let pinned = pinned::list(pins).into_iter();
    findings.extend(pinned.map(|one| Finding::new("pins", one.found, one.remedy)));
    Report::new(sys::kernel().name, datapath, findings)
}

fn capabilities() -> Vec<Finding> {
    let Some(held) = sys::capabilities() else {
        let remedy = Some("mount /proc".to_owned());
        return vec![Finding::new("capabilities", "/proc/self/status does not tell", remedy)];
    };
    // Those that the network namespace decides about may be enough there.
    let is_rootless = sys::is_in_user_namespace();
    let one = |check: &'static str, held: bool, use_: &str| {
        if held && is_rootless && matches!(check, "CAP_BPF" | "CAP_PERFMON") {
            let found = format!("held in a user namespace only, where it does not count: {use_}");
            return Finding::new(check, found, Some(kernel::ROOTLESS.to_owned()));
        }
        let remedy = format!(
            "run as root, or grant {check} (systemd: AmbientCapabilities={check}; docker or podman run: --cap-add {})",
            check.trim_start_matches("CAP_")
        );
        let found = if held { "held" } else { "missing" };
        Finding::new(check, format!("{found}: {use_}"), (!held).then_some(remedy))
    };
    vec![
        one("CAP_BPF", held.bpf(), "to load BPF programs"),
        one("CAP_NET_ADMIN", held.net_admin(), "to create maps of sockets"),
        one("CAP_PERFMON", held.perfmon(), "to let BPF programs read kernel memory"),
        one("CAP_NET_RAW", held.net_raw(), "to probe and reset offloaded connections"),
    ]
}

fn datapaths() -> (Finding, Finding) {
    let probed = kernel::probe(false, true);
    let passed = format!("self-test passed in {} ms", probed.took.as_millis());
    let sockmap = match probed.sockmap {
        Ok(_) => match probed.caution {
            None => Finding::new("datapath sockmap", passed, None),
            Some(caution) => {
                let found = format!("{passed}, but \"auto\" copies: {}", caution.what);
                Finding::new("datapath sockmap", found, Some(caution.remedy))
            }
        },
        Err(reason) => Finding::unavailable("datapath sockmap", reason),
    };
    let local = match probed.local {
        Some(Ok(kernel::Local { noticed: None })) => Finding::new(
            "datapath local",
            "self-test passed; \"auto\" uses it for servers on this host",
            None,
        ),
        // No warning: nothing is wrong with this host.
        Some(Ok(kernel::Local { noticed: Some(noticed) })) => {
            Finding::new("datapath local", format!("available, off by default: {noticed}"), None)
        }
        Some(Err(reason)) => Finding::unavailable("datapath local", reason),
        None => Finding::new("datapath local", "not tried", None),
    };
    (sockmap, local)
}

/// Whether connections could be offloaded. That is only done where the configuration has a [packet] section.
fn packet(pins: &Path) -> Finding {
    const CHECK: &str = "datapath packet";
    let hook = if sys::has_tcx() { "tcx" } else { "clsact filters (the kernel has no tcx)" };
    match (kernel::packet::try_load(pins, &PORTS), kernel::packet_caution()) {
        (Ok(()), None) => {
            Finding::new(CHECK, format!("available by {hook}, off by default: add a [packet] section"), None)
        }
        (Ok(()), Some(caution)) => {
            let found = format!("available by {hook}, but \"auto\" does not offload: {}", caution.what);
            Finding::new(CHECK, found, Some(caution.remedy))
        }
        (Err(reason), _) => Finding::unavailable(CHECK, reason),
    }
}

/// Whether an interface does what keeps its connections from being offloaded.
fn cards() -> Finding {
    const CHECK: &str = "network cards";
    let links = match sys::interfaces() {
        Ok(found) => found.links,
        Err(error) => return Finding::new(CHECK, format!("the kernel does not tell: {error}"), None),
    };
    let joining: Vec<&str> =
        links.keys().map(String::as_str).filter(|name| sys::joins_packets(name).unwrap_or(false)).collect();
    let [first, ..] = joining.as_slice() else {
        return Finding::new(CHECK, "none joins packets in hardware (LRO)", None);
    };
    let found = format!(
        "connections by {} are not offloaded: packets are joined in hardware (large receive offload)",
        joining.join(", ")
    );
    Finding::new(CHECK, found, Some(format!("if [packet] is in use: `ethtool -K {first} lro off`")))
}

/// Whether the guard could be used, and where it is. Nothing is attached for that.
fn guard() -> Finding {
    match guard::try_load() {
        Ok(()) => {
            let running = guard::command::running();
            let found = running.map_or_else(
                || "the kernel accepts the program".to_owned(),
                |running| format!("in use by the running daemon: {running}"),
            );
            Finding::new("guard", found, None)
        }
        Err(reason) => Finding::unavailable("guard", reason),
    }
}

/// Whether the port of the embedded default can be listened on.
fn port() -> Finding {
    const CHECK: &str = "listen on 443";
    let all =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))];
    let [tried, without_ipv6] = all.map(sys::check_free);
    let tried = match tried {
        // That is another finding.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => without_ipv6,
        tried => tried,
    };
    let Err(error) = tried else { return Finding::new(CHECK, "the port is free", None) };
    match (error.kind(), listener(all[0])) {
        (io::ErrorKind::AddrInUse, Some(owner)) if owner.name == "snisplice" => {
            Finding::new(CHECK, format!("in use by {owner}"), None)
        }
        (io::ErrorKind::AddrInUse, Some(owner)) => Finding::error(
            CHECK,
            format!("taken by {owner}"),
            format!("stop {}, or listen on another port or address in [[listen]]", owner.name),
        ),
        (io::ErrorKind::AddrInUse, None) => Finding::error(
            CHECK,
            "taken by a process that this user cannot see",
            "run `snisplice doctor` as root to see which one it is",
        ),
        (io::ErrorKind::PermissionDenied, _) => {
            Finding::error(CHECK, "not allowed", format!("run as root, or {BIND}"))
        }
        _ => Finding::error(CHECK, error.to_string(), "listen on another port or address in [[listen]]"),
    }
}

fn dual_stack() -> Finding {
    match sys::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), false, None) {
        Ok(_) => Finding::new("IPv6", "[::] can be listened on, for IPv4 too", None),
        Err(error) => {
            let remedy = "set address = [\"0.0.0.0:443\"] in [[listen]]".to_owned();
            Finding::new("IPv6", format!("[::] cannot be listened on: {error}"), Some(remedy))
        }
    }
}

fn open_files() -> Finding {
    let (_, hard) = sys::open_file_limit();
    match hard {
        None => Finding::new("open files", "unlimited", None),
        Some(limit) => {
            let found = format!("at most {limit}: about {} connections", limit.saturating_sub(100) / 2);
            let remedy = format!(
                "raise the hard limit (systemd: LimitNOFILE=) if more are expected; {limit} is little"
            );
            Finding::new("open files", found, (limit < FILES_FOR_A_FLEET).then_some(remedy))
        }
    }
}

/// Whether others may change the files of a daemon with the paths that it has by default.
fn writers(pins: &Path) -> Finding {
    let mut risks = paths::of_defaults(pins).into_iter();
    match risks.next() {
        None => Finding::new("files", "only their owner can change configuration, socket and pins", None),
        Some(paths::Risk { what, remedy }) => {
            let more = risks.len();
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Finding::new("files", format!("{what}{more}"), Some(remedy))
        }
    }
}
