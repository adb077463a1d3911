//! The network of a test: client -- edge -- backend.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;

use anyhow::{Context as _, Result};

use super::{Namespace, ip, sweep};
use crate::workdir::unique_name;

/// The client's addresses.
pub const CLIENT_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
/// See [`CLIENT_IPV4`].
pub const CLIENT_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2));
/// The edge's addresses on the client's side: where clients connect to.
pub const EDGE_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
/// See [`EDGE_IPV4`].
pub const EDGE_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1));
/// The backend's addresses.
pub const BACKEND_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2));
/// See [`BACKEND_IPV4`].
pub const BACKEND_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2));

const CLIENT_SETUP: &str = "\
link set edge up
address add 10.1.0.2/24 dev edge
address add fd00:1::2/64 dev edge nodad
route add default via 10.1.0.1
route add ::/0 via fd00:1::1
";
const EDGE_SETUP: &str = "\
link set client up
link set backend up
address add 10.1.0.1/24 dev client
address add fd00:1::1/64 dev client nodad
address add 10.2.0.1/24 dev backend
address add fd00:2::1/64 dev backend nodad
";
const BACKEND_SETUP: &str = "\
link set edge up
address add 10.2.0.2/24 dev edge
address add fd00:2::2/64 dev edge nodad
route add default via 10.2.0.1
route add ::/0 via fd00:2::1
";

/// Three namespaces in a row, joined by two veth pairs. The edge also forwards packets, so that a client can reach
/// the backend directly: that is what a path through the daemon is compared with.
#[derive(Debug)]
pub struct Topology {
    /// Where clients run.
    pub client: Namespace,
    /// Where the daemon runs.
    pub edge: Namespace,
    /// Where upstream servers run.
    pub backend: Namespace,
}

impl Topology {
    /// Makes the namespaces and links; the first call of a process removes what killed processes have left.
    ///
    /// # Errors
    /// When `ip` fails, above all without root.
    pub fn create() -> Result<Self> {
        let topology = Self::bare()?;
        join(&topology.edge, "client", &topology.client, "edge")?;
        join(&topology.edge, "backend", &topology.backend, "edge")?;
        topology.set_up()?;
        Ok(topology)
    }

    /// The namespaces without links.
    pub(super) fn bare() -> Result<Self> {
        static SWEEP: Once = Once::new();
        let mut swept = Ok(());
        SWEEP.call_once(|| swept = sweep());
        swept?;

        let group = unique_name();
        let topology = Self {
            client: Namespace::create(&group, "client")?,
            edge: Namespace::create(&group, "edge")?,
            backend: Namespace::create(&group, "backend")?,
        };
        topology.edge.enter(|| {
            // /proc/sys/net shows the namespace of the thread that opens it.
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                let path = format!("/proc/sys/net/{switch}");
                fs::write(&path, "1").with_context(|| format!("writing {path}"))?;
            }
            Ok(())
        })?;
        Ok(topology)
    }

    /// One more namespace, with nothing in it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn more(&self, role: &str) -> Result<Namespace> {
        Namespace::create(&unique_name(), role)
    }

    /// Gives the links their addresses and routes.
    pub(super) fn set_up(&self) -> Result<()> {
        self.client.ip_batch(CLIENT_SETUP)?;
        self.edge.ip_batch(EDGE_SETUP)?;
        self.backend.ip_batch(BACKEND_SETUP)
    }
}

/// Makes a veth pair. Each end is named for the namespace that it leads to.
fn join(one: &Namespace, leads_to_other: &str, other: &Namespace, leads_to_one: &str) -> Result<()> {
    let (one, other) = (one.name(), other.name());
    let ends = ["name", leads_to_other, "netns", one, "type", "veth", "peer", "name", leads_to_one];
    ip(&[&["link", "add"], &ends[..], &["netns", other]].concat(), "").map(drop)
}

/// An address of the edge as seen by IPv4 clients.
pub fn edge(port: u16) -> SocketAddr {
    SocketAddr::new(EDGE_IPV4, port)
}

/// An IPv4 address of the backend.
pub fn backend(port: u16) -> SocketAddr {
    SocketAddr::new(BACKEND_IPV4, port)
}
