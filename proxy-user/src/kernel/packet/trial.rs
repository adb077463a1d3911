//! What this process must be allowed to do for offloaded connections, tried once at start: they depend on it. Loading programs,
//! maps, the timer, pins and membarrier(2) are tried by being used before the first connection is offloaded.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use aya::EbpfLoader;
use proxy_common::abi::packet::OFFSETS;
use proxy_common::kernels::Part;
use proxy_common::packet::restore::Start;
use socket2::{Domain, Socket, Type};

use super::attach::program;
use super::hook::BOTH;
use super::{OBJECT, claim, load_control};
use crate::kernel::Unavailable;
use crate::kernel::object::offsets;
use crate::sys;

/// TCP's discard port: nothing is sent there.
const NOBODY: u16 = 9;

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Err: what is denied, and what to change. `ports`: the local ports of connections to servers.
pub(crate) fn trial(ports: &RangeInclusive<u16>) -> Result<(), Unavailable> {
    for loopback in LOOPBACKS {
        if let Err(error) = send(loopback) {
            return Err(unsent(&error));
        }
        if let Err(error) = restore(loopback) {
            return Err(denied(
                "sockets cannot be put into repair mode (TCP_REPAIR)",
                "CAP_NET_ADMIN",
                &error,
            ));
        }
    }
    bind(*ports.start()).map_err(|error| {
        denied("the ports of [packet] cannot be bound to", "CAP_NET_BIND_SERVICE", &error)
    })?;
    sys::interfaces().map_err(|error| Unavailable::explain("the interfaces cannot be listed", &error))?;
    match sys::route(None, Ipv4Addr::LOCALHOST.into()) {
        Err(error) if !is_absent(&error) => Err(Unavailable::explain("routes cannot be looked up", &error)),
        _ => Ok(()),
    }
}

/// Whether this host can offload connections, for `doctor`: nothing is attached, and nothing is pinned below `pins`.
pub(crate) fn try_load(pins: &Path, ports: &RangeInclusive<u16>) -> Result<(), Unavailable> {
    load(pins, ports).map_err(|error| error.of(Part::Packet))
}

fn load(pins: &Path, ports: &RangeInclusive<u16>) -> Result<(), Unavailable> {
    if let Some(denied) = Unavailable::missing_capabilities() {
        return Err(denied);
    }
    claim::in_bpf_file_system(pins)?;
    trial(ports)?;
    sys::wait_for_packets().map_err(|error| Unavailable::explain("membarrier(2) fails", &error))?;
    let offsets = offsets(OFFSETS.iter())?;
    let mut loader = EbpfLoader::new();
    for (constant, offset) in &offsets {
        loader.override_global(constant, offset, true);
    }
    let loaded = loader.load(OBJECT);
    let mut ebpf = loaded.map_err(|error| Unavailable::explain("the BPF maps cannot be made", &error))?;
    load_control(&mut ebpf)?;
    for (name, _) in BOTH {
        let loaded = program(&mut ebpf, name)?.load();
        loaded.map_err(|error| Unavailable::explain("the kernel refuses a BPF program", &error))?;
    }
    Ok(())
}

/// A reset to a port of the loopback, which nobody answers: a probe takes the same way.
fn send(to: IpAddr) -> io::Result<()> {
    let ports = [NOBODY.to_be_bytes(), NOBODY.to_be_bytes()].concat();
    // Sequence and acknowledgement numbers, 5 words, RST, no window, no checksum: the receiver drops it.
    let segment = [&ports[..], &[0; 8], &[5 << 4, 4], &[0; 6]].concat();
    present(sys::send_segment(to, to, &segment))
}

/// A connection that exists already, as a flow gets one that is taken back. It is dropped without a word.
fn restore(at: IpAddr) -> io::Result<()> {
    let start = Start { send: 1, receive: 1, window: 1, peer_scale: 0, own_scale: 0, stamp: None };
    let connection = sys::Connection {
        near: SocketAddr::new(at, 0),
        far: SocketAddr::new(at, NOBODY),
        start,
        most_sent: 536,
        most_received: None,
        selective: true,
    };
    present(sys::restore(&connection).map(drop))
}

/// Ports below 1024 take a privilege. Somebody may have this one: that is not asked for here.
fn bind(port: u16) -> io::Result<()> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    match socket.bind(&at.into()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// A host may have no IPv4, no IPv6, or no loopback: that denies nothing.
fn present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAFNOSUPPORT
                | libc::EADDRNOTAVAIL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::ENODEV
        )
    )
}

fn unsent(error: &io::Error) -> Unavailable {
    let what = "probes and resets cannot be sent to the peers of offloaded connections";
    if sys::capabilities().is_none_or(sys::Capabilities::net_raw) {
        return Unavailable {
            log: None,
            what: format!("{what}: {error}"),
            remedy: "let the firewall of this host (OUTPUT) and its security modules allow raw TCP sockets, also on the loopback interface"
                .to_owned(),
        };
    }
    denied(what, "CAP_NET_RAW", error)
}

fn denied(what: &str, capability: &str, error: &io::Error) -> Unavailable {
    Unavailable {
        log: None,
        what: format!("{what}: {error}; this takes {capability}"),
        remedy:
            "run as root, or give the process CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW (systemd: \
                 AmbientCapabilities= and CapabilityBoundingSet=; docker or podman run: --cap-add BPF --cap-add NET_ADMIN \
                 --cap-add PERFMON --cap-add NET_RAW)"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root, which is what tests run as, or not: then it is said what is missing.
    #[test]
    fn what_is_denied_is_named() {
        let held = sys::capabilities().unwrap();
        match trial(&(61_000..=65_535)) {
            Ok(()) => assert!(held.net_raw() && held.net_admin()),
            Err(denied) => assert!(denied.to_string().contains("CAP_NET_RAW"), "{denied}"),
        }
    }
}
