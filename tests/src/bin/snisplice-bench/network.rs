//! Where the peers and the proxy of a measurement are.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use harness::command;
use harness::netns::{BACKEND_IPV4, EDGE_IPV4, Namespace, Topology};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

/// The congestion control of all sockets, those of the proxies included.
pub(crate) const CONGESTION: &str = "cubic";

/// Settings of each namespace, so that a run of many short connections does not run out of ports.
const SETTINGS: [(&str, &str); 2] = [("ipv4/ip_local_port_range", "11000 65535"), ("ipv4/tcp_tw_reuse", "1")];

/// The port that every proxy listens on.
pub(crate) const FRONT_PORT: u16 = 443;

/// Who is on which host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// Client, proxy and backend on three hosts in a row.
    Routed,
    /// The backend on the proxy's host, the client on another.
    SameHost,
    /// All on one host.
    Loopback,
}

impl Placement {
    /// For the heads of tables.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Routed => "three hosts",
            Self::SameHost => "same host",
            Self::Loopback => "loopback",
        }
    }
}

/// A kind of backend, with a name and a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Greets with one byte and then echoes.
    Echo,
    /// Sends and receives as fast as it can.
    Bulk,
    /// The same over TLS.
    Tls,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Echo, Self::Bulk, Self::Tls];

    /// What its configuration entries are called.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Bulk => "bulk",
            Self::Tls => "tls",
        }
    }

    /// The server name that clients ask for.
    pub(crate) fn name(self) -> String {
        format!("{}.bench.test", self.word())
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Echo => 7001,
            Self::Bulk => 7002,
            Self::Tls => 7003,
        }
    }
}

/// The namespaces of all measurements.
#[derive(Debug)]
pub(crate) struct Network(Topology);

impl Network {
    /// Makes the namespaces and applies the settings.
    pub(crate) fn create() -> Result<Self> {
        let topology = Topology::create()?;
        for namespace in [&topology.client, &topology.edge, &topology.backend] {
            namespace.enter(|| {
                SETTINGS.iter().try_for_each(|(name, value)| {
                    let path = format!("/proc/sys/net/{name}");
                    fs::write(&path, value).with_context(|| format!("writing {value:?} to {path}"))
                })
            })?;
            set_congestion(namespace)?;
        }
        Ok(Self(topology))
    }

    /// Where proxies run.
    pub(crate) fn edge(&self) -> &Namespace {
        &self.0.edge
    }

    /// The way of the bytes in this placement, through a proxy or past it.
    pub(crate) fn path(&self, placement: Placement, proxied: bool) -> Path {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (client, server, front, backend, direct) = match placement {
            Placement::Routed => (&self.0.client, &self.0.backend, EDGE_IPV4, BACKEND_IPV4, BACKEND_IPV4),
            Placement::SameHost => (&self.0.client, &self.0.edge, EDGE_IPV4, here, EDGE_IPV4),
            Placement::Loopback => (&self.0.edge, &self.0.edge, here, here, here),
        };
        let (client, server) = (client.clone(), server.clone());
        Path { client, server, backend, to: if proxied { Err(front) } else { Ok(direct) } }
    }
}

/// Sets the congestion control by the routes: a host may allow its namespaces to set only some by sysctl.
fn set_congestion(namespace: &Namespace) -> Result<()> {
    let ip = |arguments: &[&str]| {
        command::run(namespace.command("ip").arg("-4").args(["route"]).args(arguments), &[])?.success()
    };
    let all = ip(&["show", "table", "all"])?;
    for route in all.lines().filter(|route| !route.starts_with("broadcast")) {
        let words: Vec<&str> = route.split_whitespace().collect();
        ip(&[&["change"], words.as_slice(), &["congctl", CONGESTION]].concat())?;
    }
    Ok(())
}

/// Sees that a socket has the congestion control that is reported.
pub(crate) fn check_congestion(socket: &TcpStream) -> Result<()> {
    let name = SockRef::from(socket).tcp_congestion()?;
    let name = String::from_utf8_lossy(&name);
    ensure!(
        name.trim_end_matches('\0') == CONGESTION,
        "the congestion control is {name} and not {CONGESTION}"
    );
    Ok(())
}

/// Where clients run, where servers run, and how the ones reach the others.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    /// The servers' address as the proxy sees it.
    backend: IpAddr,
    /// The address that clients connect to: `Err` is the proxy's, `Ok` the servers' own.
    to: Result<IpAddr, IpAddr>,
}

impl Path {
    /// Where a proxy connects to.
    pub(crate) fn upstream(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.backend, service.port())
    }

    /// Where a client connects to.
    pub(crate) fn target(&self, service: Service) -> SocketAddr {
        match self.to {
            Ok(server) => SocketAddr::new(server, service.port()),
            Err(proxy) => SocketAddr::new(proxy, FRONT_PORT),
        }
    }
}
