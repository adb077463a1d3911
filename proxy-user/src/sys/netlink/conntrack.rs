//! Entries of the kernel's table of tracked connections (ctnetlink, `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

/// `NFNL_SUBSYS_CTNETLINK`, and of its messages `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
const CONNECTIONS: u16 = 1 << 8;
const NEW: u16 = CONNECTIONS;
const DELETE: u16 = CONNECTIONS | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`, `NLM_F_CREATE | NLM_F_EXCL`, and the kind of the answer.
const FLAGS: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;
const ANSWER: u16 = 2;
const HEADER: usize = 16;

/// Attributes: the tuple, what it is made of, and what these are made of.
const TUPLE: u16 = 1 | NESTED;
const REPLY: u16 = 2 | NESTED;
const ADDRESSES: u16 = 1 | NESTED;
const TRANSPORT: u16 = 2 | NESTED;
const NESTED: u16 = 1 << 15;
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
    static SOCKET: Cell<Option<Socket>> = const { Cell::new(None) };
}

/// Removes the entries of TCP connections, each from a source to a target, in the network namespace of this thread's first question. Says
/// how many there were. An error where nothing is tracked at all.
pub(crate) fn untrack<const N: usize>(connections: [(SocketAddr, SocketAddr); N]) -> io::Result<u64> {
    let questions =
        connections.map(|(source, target)| message(DELETE, 0, source, tuple(TUPLE, source, target)));
    let found = ask(questions)?.into_iter().collect::<io::Result<Vec<_>>>()?;
    Ok(found.into_iter().map(u64::from).sum())
}

/// Has the entries of TCP connections taken for right, whatever sequence numbers packets have from now on (as with
/// `net.netfilter.nf_conntrack_tcp_be_liberal`).
pub(crate) fn relax<const N: usize>(connections: [(SocketAddr, SocketAddr); N]) -> io::Result<()> {
    let change = |(source, target)| {
        let details = attribute(DETAILS, &attribute(TCP, &WAYS.map(liberal).concat()));
        message(NEW, 0, source, [tuple(TUPLE, source, target), details].concat())
    };
    ask(connections.map(change))?.into_iter().try_for_each(|changed| changed.map(drop))
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
        message(NEW, CREATE, source, parts.concat())
    };
    ask(connections.map(entry))?.into_iter().try_for_each(|made| made.map(drop))
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

/// Puts questions, and gives the answer to each.
fn ask<const N: usize>(questions: [io::Result<Vec<u8>>; N]) -> io::Result<Vec<io::Result<bool>>> {
    if !is_there() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let netlink = Domain::from(libc::AF_NETLINK);
    let open = || {
        let socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))?;
        // Answers are there when the questions are sent. Without the right to ask there is one for all of them.
        socket.set_nonblocking(true).map(|()| socket)
    };
    let socket = SOCKET.take().map_or_else(open, Ok)?;
    (&socket).write_all(&questions.into_iter().collect::<io::Result<Vec<_>>>()?.concat())?;
    // All answers are read before an error is one: what is left of them would be taken for those to the next questions.
    let mut answers = Vec::with_capacity(N);
    for _ in 0..N {
        let mut bytes = [0; 1024];
        let size = (&socket).read(&mut bytes)?;
        answers.push(was_there(bytes.get(..size).unwrap_or_default()));
    }
    SOCKET.set(Some(socket));
    Ok(answers)
}

/// Whether an answer says that there was an entry.
fn was_there(answer: &[u8]) -> io::Result<bool> {
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..).and_then(|body| body.first_chunk().copied()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ANSWER), Some(0)) => Ok(true),
        (Some(ANSWER), Some(code)) if code.saturating_neg() == libc::ENOENT => Ok(false),
        (Some(ANSWER), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
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

fn message(kind: u16, flags: u16, source: SocketAddr, attributes: Vec<u8>) -> io::Result<Vec<u8>> {
    let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // `struct nfgenmsg`: family, version, and no number.
    let mut body = vec![u8::try_from(family).unwrap_or(0), 0, 0, 0];
    body.extend(attributes);
    let mut question = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    question.extend(kind.to_ne_bytes());
    question.extend((FLAGS | flags).to_ne_bytes());
    // Number of the question, and who asks: one is enough for both.
    question.extend([0; 8]);
    question.extend(body);
    Ok(question)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let mut all = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    all.extend(value);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_long_as_it_says() {
        for (source, target, length) in [
            ("10.1.0.2:1", "10.1.0.1:443", 16 + 4 + 4 + (4 + 16) + (4 + 8 * 3)),
            ("[fd00::1]:1", "[fd00::2]:443", 16 + 4 + 4 + (4 + 40) + (4 + 8 * 3)),
        ] {
            let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
            let question = message(DELETE, 0, source, tuple(TUPLE, source, target)).unwrap();
            assert_eq!(question.len(), length);
            assert_eq!(question[..4], u32::try_from(length).unwrap().to_ne_bytes());
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
