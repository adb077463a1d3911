//! Entries of the kernel's table of tracked connections (ctnetlink, `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`, and the kind of the answer.
const FLAGS: u16 = 1 | 4;
const ANSWER: u16 = 2;
const HEADER: usize = 16;

/// Attributes: the tuple, what it is made of, and what these are made of.
const TUPLE: u16 = 1 | NESTED;
const ADDRESSES: u16 = 1 | NESTED;
const TRANSPORT: u16 = 2 | NESTED;
const NESTED: u16 = 1 << 15;
const IPV4: [u16; 2] = [1, 2];
const IPV6: [u16; 2] = [3, 4];
const PROTOCOL: u16 = 1;
const PORTS: [u16; 2] = [2, 3];

/// Removes the entry of a TCP connection. Says whether there was one. An error where nothing is tracked at all.
pub(crate) fn untrack(source: SocketAddr, target: SocketAddr) -> io::Result<bool> {
    let netlink = Domain::from(libc::AF_NETLINK);
    let socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))?;
    (&socket).write_all(&question(source, target)?)?;
    let mut answer = [0; 1024];
    let size = (&socket).read(&mut answer)?;
    let answer = answer.get(..size).unwrap_or_default();
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..).and_then(|body| body.first_chunk().copied()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ANSWER), Some(0)) => Ok(true),
        (Some(ANSWER), Some(code)) if code.saturating_neg() == libc::ENOENT => Ok(false),
        (Some(ANSWER), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn question(source: SocketAddr, target: SocketAddr) -> io::Result<Vec<u8>> {
    let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // `struct nfgenmsg`: family, version, and no number.
    let mut body = vec![u8::try_from(family).unwrap_or(0), 0, 0, 0];
    let kinds = if source.is_ipv4() { IPV4 } else { IPV6 };
    let (mut addresses, mut transport) = (Vec::new(), attribute(PROTOCOL, &[6]));
    for ((kind, port), end) in kinds.into_iter().zip(PORTS).zip([source, target]) {
        addresses.extend(match end.ip() {
            IpAddr::V4(address) => attribute(kind, &address.octets()),
            IpAddr::V6(address) => attribute(kind, &address.octets()),
        });
        transport.extend(attribute(port, &end.port().to_be_bytes()));
    }
    let tuple = [attribute(ADDRESSES, &addresses), attribute(TRANSPORT, &transport)].concat();
    body.extend(attribute(TUPLE, &tuple));
    let mut question = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    question.extend(DELETE.to_ne_bytes());
    question.extend(FLAGS.to_ne_bytes());
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
            let question = question(source.parse().unwrap(), target.parse().unwrap()).unwrap();
            assert_eq!(question.len(), length);
            assert_eq!(question[..4], u32::try_from(length).unwrap().to_ne_bytes());
        }
    }

    #[test]
    fn a_connection_that_nobody_made_has_no_entry() {
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        // Without the right to ask, or without connection tracking, that is said.
        assert!(!untrack(one, other).unwrap_or(false));
    }
}
