//! What warnings ask of the host that the configuration is checked on.

use std::collections::BTreeSet;
use std::fs;

use crate::sys;

/// Facts of one host. The default knows none, and nothing is said about it then.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(super) local_ports: Option<LocalPorts>,
    /// Names of the interfaces of this network namespace.
    pub(super) interfaces: Option<BTreeSet<String>>,
}

/// The settings of the kernel that say which ports it gives to connections by itself.
#[derive(Debug)]
pub(super) struct LocalPorts {
    /// `net.ipv4.ip_local_port_range`
    pub(super) range: String,
    /// `net.ipv4.ip_local_reserved_ports`
    pub(super) reserved: String,
}

impl Host {
    /// Of this host, as far as it tells.
    pub(crate) fn ask() -> Self {
        let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let local_ports = setting("ip_local_port_range").ok().map(|range| LocalPorts {
            range,
            reserved: setting("ip_local_reserved_ports").unwrap_or_default(),
        });
        let interfaces = sys::interfaces().ok().map(|found| found.links.into_keys().collect());
        Self { local_ports, interfaces }
    }
}
