//! Entries of the kernel's table of tracked connections (ctnetlink, `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::net::netlink::NETFILTER;

use super::message::{CREATE, NESTED, attribute};
use super::socket::{Change, NetlinkSocket, Wait};

/// `NFNL_SUBSYS_CTNETLINK`, and of its messages `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
const CONNECTIONS: u16 = 1 << 8;
const NEW: u16 = CONNECTIONS;
const DELETE: u16 = CONNECTIONS | 2;

/// Attributes: the tuple, what it is made of, and what these are made of.
const TUPLE: u16 = 1 | NESTED;
const REPLY: u16 = 2 | NESTED;
const ADDRESSES: u16 = 1 | NESTED;
const TRANSPORT: u16 = 2 | NESTED;
const IPV4: [u16; 2] = [1, 2];
const IPV6: [u16; 2] = [3, 4];
const PROTOCOL: u16 = 1;
const PORTS: [u16; 2] = [2, 3];

/// Attributes of an entry: `CTA_STATUS`, `CTA_PROTOINFO` and `CTA_TIMEOUT`, and of `CTA_PROTOINFO_TCP` the state and the flags each way.
const STATUS: u16 = 3;
const DETAILS: u16 = 4 | NESTED;
const TIMEOUT: u16 = 7;
const TCP: u16 = 1 | NESTED;
const STATE: u16 = 1;
const WAYS: [u16; 2] = [4, 5];
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// `IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED`.
const ANSWERED: u32 = 2 | 4 | 8;
/// `IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL`: as the kernel has it of a connection that it takes up in the middle.
const LIBERAL: u8 = 2 | 8;
/// Seconds until an entry goes if no packet comes; each packet sets what the host has configured.
const LIFETIME: u32 = 300;

thread_local! {
    /// To make a socket takes longer than to ask.
    static SOCKET: Cell<Option<NetlinkSocket>> = const { Cell::new(None) };
}

/// Removes the entries of TCP connections, each from a source to a target, in the network namespace of this thread's first question. Says
/// how many there were. An error where nothing is tracked at all.
pub(crate) fn untrack<const N: usize>(connections: [(SocketAddr, SocketAddr); N]) -> io::Result<u64> {
    let entries = connections.map(|(source, target)| change(DELETE, 0, source, tuple(TUPLE, source, target)));
    request(entries)?.into_iter().try_fold(0, |count, outcome| match outcome {
        Ok(()) => Ok(count + 1),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(count),
        Err(error) => Err(error),
    })
}

/// Has the entries of TCP connections taken for right, whatever sequence numbers packets have from now on (as with
/// `net.netfilter.nf_conntrack_tcp_be_liberal`).
pub(crate) fn relax<const N: usize>(connections: [(SocketAddr, SocketAddr); N]) -> io::Result<()> {
    let relaxed = |(source, target)| {
        let details = attribute(DETAILS, &attribute(TCP, &WAYS.map(liberal).concat()));
        change(NEW, 0, source, [tuple(TUPLE, source, target), details].concat())
    };
    succeed(request(connections.map(relaxed))?)
}

/// Makes entries of established TCP connections, in the place of those that there are.
pub(crate) fn track<const N: usize>(connections: [(SocketAddr, SocketAddr); N]) -> io::Result<()> {
    untrack(connections)?;
    let entry = |(source, target)| {
        let details = [attribute(STATE, &[ESTABLISHED]), WAYS.map(liberal).concat()];
        let parts = [
            tuple(TUPLE, source, target),
            tuple(REPLY, target, source),
            attribute(STATUS, &ANSWERED.to_be_bytes()),
            attribute(TIMEOUT, &LIFETIME.to_be_bytes()),
            attribute(DETAILS, &attribute(TCP, &details.concat())),
        ];
        change(NEW, CREATE, source, parts.concat())
    };
    succeed(request(connections.map(entry))?)
}

/// The flags of one way, and which of them are meant.
fn liberal(way: u16) -> Vec<u8> {
    attribute(way, &[LIBERAL; 2])
}

/// Whether the kernel has connection tracking. A question would have it load that, or look for it in vain, which takes milliseconds.
fn is_there() -> bool {
    let here = Path::new("/proc/sys/net");
    !here.exists() || here.join("netfilter/nf_conntrack_count").exists()
}

/// Requests changes of entries, and returns the outcome of each. Without the right to change them, the kernel answers only once.
fn request<const N: usize>(changes: [Change; N]) -> io::Result<[io::Result<()>; N]> {
    if !is_there() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let socket = SOCKET.take().map_or_else(|| NetlinkSocket::open(Some(NETFILTER), Wait::Not), Ok)?;
    let outcomes = socket.change(changes)?;
    SOCKET.set(Some(socket));
    Ok(outcomes)
}

fn succeed<const N: usize>(outcomes: [io::Result<()>; N]) -> io::Result<()> {
    outcomes.into_iter().collect()
}

/// The addresses and ports of packets from a source to a target, as an attribute of this kind.
fn tuple(kind: u16, source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let kinds = if source.is_ipv4() { IPV4 } else { IPV6 };
    let (mut addresses, mut transport) = (Vec::new(), attribute(PROTOCOL, &[6]));
    for ((kind, port), end) in kinds.into_iter().zip(PORTS).zip([source, target]) {
        addresses.extend(match end.ip() {
            IpAddr::V4(address) => attribute(kind, &address.octets()),
            IpAddr::V6(address) => attribute(kind, &address.octets()),
        });
        transport.extend(attribute(port, &end.port().to_be_bytes()));
    }
    attribute(kind, &[attribute(ADDRESSES, &addresses), attribute(TRANSPORT, &transport)].concat())
}

fn change(kind: u16, flags: u16, source: SocketAddr, attributes: Vec<u8>) -> Change {
    let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // `struct nfgenmsg`: family, version, and no number.
    let mut body = vec![u8::try_from(family).unwrap_or(0), 0, 0, 0];
    body.extend(attributes);
    Change { kind, flags, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_addresses_and_ports_of_its_connection() {
        for (source, target, length) in [
            ("10.1.0.2:1", "10.1.0.1:443", 4 + 4 + (4 + 16) + (4 + 8 * 3)),
            ("[fd00::1]:1", "[fd00::2]:443", 4 + 4 + (4 + 40) + (4 + 8 * 3)),
        ] {
            let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
            let removal = change(DELETE, 0, source, tuple(TUPLE, source, target));
            assert_eq!(removal.body.len(), length);
        }
    }

    #[test]
    fn a_connection_that_nobody_made_has_no_entry() {
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        // Without the right to ask, or without connection tracking, that is said.
        for _ in 0..2 {
            assert_eq!(untrack([(one, other), (other, one)]).unwrap_or(0), 0);
        }
    }
}
