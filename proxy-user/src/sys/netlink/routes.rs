//! Where packets go: questions to the kernel's routing tables and interfaces (rtnetlink(7)).

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::message::{attribute, find, number};
use super::socket::{NetlinkSocket, Wait};

/// Kinds of messages, and their parts.
const ROUTE_GET: u16 = 26;
const ROUTE_NEW: u16 = 24;
const LINK_GET: u16 = 18;
const LINK_NEW: u16 = 16;
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
/// `IFLA_XDP`, and in it `IFLA_XDP_DRV_PROG_ID` and `IFLA_XDP_SKB_PROG_ID`.
const XDP: u16 = 43;
const XDP_NATIVE: u16 = 5;
const XDP_GENERIC: u16 = 6;
/// `RTN_LOCAL`: an address of this host.
const LOCAL: u8 = 2;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Time limit for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(1);

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

/// A socket for questions about routes, interfaces and filters.
pub(super) fn open() -> io::Result<NetlinkSocket> {
    NetlinkSocket::open(None, Wait::UpTo(TIME_LIMIT))
}

/// For many questions.
pub(crate) struct Router(NetlinkSocket);

impl Router {
    /// To the tables of the network namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        open().map(Self)
    }

    /// See [`route`].
    pub(crate) fn route(&self, source: Option<IpAddr>, target: IpAddr) -> io::Result<Route> {
        let target = target.to_canonical();
        let (family, bits) = match target {
            IpAddr::V4(_) => (libc::AF_INET, 32),
            IpAddr::V6(_) => (libc::AF_INET6, 128),
        };
        let source = source.map(|source| source.to_canonical());
        let mut body = vec![u8::try_from(family).unwrap_or(0), bits, if source.is_some() { bits } else { 0 }];
        body.resize(ROUTE_BYTES, 0);
        body.extend(attribute(TARGET, &octets(target)));
        if let Some(source) = source {
            body.extend(attribute(SOURCE, &octets(source)));
        }
        let answer = self.0.ask(ROUTE_GET, &body, ROUTE_NEW)?;
        let kind = answer.get(7).copied().unwrap_or(0);
        let device = answer.get(ROUTE_BYTES..).and_then(|parts| find(parts, DEVICE)).and_then(number);
        let device = device.ok_or(io::ErrorKind::NetworkUnreachable)?;
        Ok(Route { device, is_here: kind == LOCAL })
    }

    /// See [`device`].
    pub(crate) fn device(&self, index: u32) -> io::Result<Device> {
        let answer = self.interface(index)?;
        let kind = answer.get(2..4).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
        let part = |kind| find(answer.get(LINK_BYTES..)?, kind);
        let name = part(NAME).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
        let is_port =
            part(INFO).and_then(|info| find(info, PORT_OF)).is_some_and(|kind| kind.starts_with(b"bridge"));
        Ok(Device {
            name: String::from_utf8_lossy(name).into_owned(),
            is_ethernet: kind == Some(ETHERNET),
            bridge: part(MASTER).and_then(number).filter(|_| is_port),
            below: part(BELOW).and_then(number).filter(|_| part(ELSEWHERE).is_none()),
        })
    }

    /// What the kernel says of an interface.
    fn interface(&self, index: u32) -> io::Result<Vec<u8>> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.resize(LINK_BYTES, 0);
        self.0.ask(LINK_GET, &body, LINK_NEW)
    }
}

/// The interface with this index.
pub(crate) fn device(index: u32) -> io::Result<Device> {
    Router::open()?.device(index)
}

/// The id of the XDP program that is attached to an interface, by its driver (`native`) or by the kernel. None: there is none.
pub(crate) fn xdp_program(index: u32, native: bool) -> io::Result<Option<u32>> {
    let answer = Router::open()?.interface(index)?;
    let programs = answer.get(LINK_BYTES..).and_then(|parts| find(parts, XDP)).unwrap_or_default();
    Ok(find(programs, if native { XDP_NATIVE } else { XDP_GENERIC }).and_then(number))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
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
        assert_eq!(xdp_program(1, true).unwrap(), None);
        assert_eq!(device(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
