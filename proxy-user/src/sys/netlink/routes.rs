//! Where packets go: questions to the kernel's routing tables and interfaces (rtnetlink(7)).

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Kinds of messages, and their parts.
const ROUTE_GET: u16 = 26;
const ROUTE_NEW: u16 = 24;
const LINK_GET: u16 = 18;
const LINK_NEW: u16 = 16;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const HEADER: usize = 16;
/// Bytes of `struct rtmsg` and `struct ifinfomsg`.
const ROUTE_BYTES: usize = 12;
const LINK_BYTES: usize = 16;
/// Attributes.
const TARGET: u16 = 1;
const SOURCE: u16 = 2;
const DEVICE: u16 = 4;
const NAME: u16 = 3;
/// `IFLA_MASTER`, `IFLA_LINKINFO` and `IFLA_INFO_SLAVE_KIND`.
const MASTER: u16 = 10;
/// `IFLA_LINK`, and `IFLA_LINK_NETNSID`, which is there if that is in another network namespace.
const BELOW: u16 = 5;
const ELSEWHERE: u16 = 37;
const INFO: u16 = 18;
const PORT_OF: u16 = 4;
/// `RTN_LOCAL`: an address of this host.
const LOCAL: u8 = 2;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// For an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index of the interface.
    pub(crate) device: u32,
    /// The address is one of this host.
    pub(crate) is_here: bool,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) is_ethernet: bool,
    /// The bridge that it is a port of.
    pub(crate) bridge: Option<u32>,
    /// The interface of this network namespace that it is on, as one of a VLAN is.
    pub(crate) below: Option<u32>,
}

thread_local! {
    /// For [`route`]: to make a socket takes longer than to ask.
    static ROUTER: Cell<Option<Router>> = const { Cell::new(None) };
}

/// Where packets from `source`, or from whatever address of ours, to `target` go. An error where nothing leads there.
pub(crate) fn route(source: Option<IpAddr>, target: IpAddr) -> io::Result<Route> {
    let router = ROUTER.take().map_or_else(Router::open, Ok)?;
    // After an error there may be answers that nobody has read.
    let route = router.route(source, target)?;
    ROUTER.set(Some(router));
    Ok(route)
}

/// For many questions.
pub(crate) struct Router(pub(super) Socket);

impl Router {
    /// To the tables of the network namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        let netlink = Domain::from(libc::AF_NETLINK);
        let socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
        // Answers are there when a question has been sent.
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// See [`route`].
    pub(crate) fn route(&self, source: Option<IpAddr>, target: IpAddr) -> io::Result<Route> {
        route_by(&self.0, source, target)
    }

    /// See [`device`].
    pub(crate) fn device(&self, index: u32) -> io::Result<Device> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.resize(LINK_BYTES, 0);
        let answer = ask(&self.0, LINK_GET, &body, LINK_NEW)?;
        let kind = answer.get(2..4).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
        let name = find(&answer, LINK_BYTES, NAME).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let port_of = find(&answer, LINK_BYTES, INFO).and_then(|info| find(info, 0, PORT_OF));
        let is_port = port_of.is_some_and(|kind| kind.starts_with(b"bridge"));
        let number = |kind| {
            let value = find(&answer, LINK_BYTES, kind).and_then(|value| value.first_chunk().copied());
            value.map(u32::from_ne_bytes)
        };
        Ok(Device {
            name: String::from_utf8_lossy(name).into_owned(),
            is_ethernet: kind == Some(ETHERNET),
            bridge: number(MASTER).filter(|_| is_port),
            below: number(BELOW).filter(|_| find(&answer, LINK_BYTES, ELSEWHERE).is_none()),
        })
    }
}

fn route_by(socket: &Socket, source: Option<IpAddr>, target: IpAddr) -> io::Result<Route> {
    let target = target.to_canonical();
    let (family, bits) = match target {
        IpAddr::V4(_) => (libc::AF_INET, 32),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let source = source.map(|source| source.to_canonical());
    let mut body = vec![u8::try_from(family).unwrap_or(0), bits, if source.is_some() { bits } else { 0 }];
    body.resize(ROUTE_BYTES, 0);
    attribute(&mut body, TARGET, &octets(target));
    if let Some(source) = source {
        attribute(&mut body, SOURCE, &octets(source));
    }
    let answer = ask(socket, ROUTE_GET, &body, ROUTE_NEW)?;
    let kind = answer.get(7).copied().unwrap_or(0);
    let device = find(&answer, ROUTE_BYTES, DEVICE).and_then(|value| value.first_chunk().copied());
    let device = device.map(u32::from_ne_bytes).ok_or(io::ErrorKind::NetworkUnreachable)?;
    Ok(Route { device, is_here: kind == LOCAL })
}

/// The interface with this index.
pub(crate) fn device(index: u32) -> io::Result<Device> {
    Router::open()?.device(index)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The value of an attribute behind the first `from` bytes of a message.
pub(super) fn find(message: &[u8], from: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(from..)?;
    loop {
        let (length, behind) = rest.split_first_chunk()?;
        let (kind, _) = behind.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes(*kind) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// One question; the body of the one answer.
pub(super) fn ask(mut socket: &Socket, kind: u16, body: &[u8], wanted: u16) -> io::Result<Vec<u8>> {
    let mut question = Vec::with_capacity(HEADER + body.len());
    question.extend(u32::try_from(HEADER + body.len()).map_err(io::Error::other)?.to_ne_bytes());
    question.extend(kind.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Number of the question, and who asks: one is enough for both.
    question.extend([0; 8]);
    question.extend(body);
    socket.write_all(&question)?;
    let mut answer = vec![0; 16 * 1024];
    let size = socket.read(&mut answer)?;
    answer.truncate(size);
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
    let body = answer.get(HEADER..).unwrap_or_default();
    match kind {
        Some(kind) if kind == wanted => Ok(body.to_vec()),
        Some(ERROR) => {
            let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_loopback_is_here_and_no_ethernet() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(route) = route(Some(address), address) else { continue };
            assert!(route.is_here, "{route:?}");
            assert_eq!(
                device(route.device).unwrap(),
                Device { name: "lo".to_owned(), is_ethernet: false, bridge: None, below: None }
            );
        }
        assert_eq!(device(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn attributes_are_found_whatever_stands_before_them() {
        let mut body = vec![9; ROUTE_BYTES];
        attribute(&mut body, 7, b"a");
        attribute(&mut body, 8, b"four");
        assert_eq!(find(&body, ROUTE_BYTES, 8), Some(&b"four"[..]));
        assert_eq!(find(&body, ROUTE_BYTES, 9), None);
        assert_eq!(find(&[1, 0, 0, 0], 0, 9), None, "a length of nothing");
    }
}
