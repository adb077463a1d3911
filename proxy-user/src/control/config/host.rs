//! What warnings ask of the host that the configuration is checked on.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use crate::sys;

/// Facts of one host. The default knows none, and nothing is said about it then.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(super) local_ports: Option<LocalPorts>,
    /// Names of the interfaces of this network namespace.
    pub(super) interfaces: Option<BTreeSet<String>>,
    /// Addresses of this network namespace.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// The settings of the kernel that say which ports it gives to connections by itself.
#[derive(Debug)]
pub(super) struct LocalPorts {
    /// `net.ipv4.ip_local_port_range`
    pub(super) range: String,
    /// `net.ipv4.ip_local_reserved_ports`
    pub(super) reserved: String,
}

impl LocalPorts {
    /// The range as it is written elsewhere: `32768-60999`.
    pub(super) fn range(&self) -> String {
        self.range.split_whitespace().collect::<Vec<_>>().join("-")
    }
}

impl Host {
    /// Whether a server of this address runs on this host.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Of this host, as far as it tells.
    pub(crate) fn ask() -> Self {
        let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let local_ports = setting("ip_local_port_range").ok().map(|range| LocalPorts {
            range,
            reserved: setting("ip_local_reserved_ports").unwrap_or_default(),
        });
        let Ok(found) = sys::interfaces() else { return Self { local_ports, ..Self::default() } };
        let interfaces = Some(found.links.into_keys().collect());
        Self { local_ports, interfaces, addresses: found.addresses.into_iter().collect() }
    }
}
