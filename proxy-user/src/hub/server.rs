//! Where an upstream's server is, as it is configured.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    /// A literal address.
    Address(SocketAddr),
    /// An address of a link. The interface is looked up for each connection, since it may go and come with another number.
    LinkLocal {
        ip: Ipv6Addr,
        /// Name as written.
        interface: Arc<str>,
        /// TCP port, not 0.
        port: u16,
    },
    /// A name, looked up for each connection.
    Name {
        /// Host name as written.
        host: String,
        /// TCP port, not 0.
        port: u16,
    },
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LinkLocal { ip, interface, port } => write!(f, "[{ip}%{interface}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
