//! Warnings: what is allowed, and most likely not meant.

use std::time::Duration;

use proxy_common::plan::Datapath;
use proxy_common::ports::are_own;

use super::compile::Checked;
use super::host::Host;
use super::places::Places;
use super::raw::Raw;
use super::report::{Fault, Report, quote};
use crate::hub::Server;

/// The longest silence of a polling Tentacle and its server is 30 s, and both may be late.
const POLLING_SILENCE: Duration = Duration::from_secs(35);

/// The port of Octopus for polling Tentacles.
const POLLING_PORT: u16 = 10943;

pub(super) fn check(raw: &Raw, checked: &Checked, places: &Places, host: &Host, report: &mut Report<'_>) {
    single_labels(places, report);
    short_idle(raw, checked, places, report);
    packet_ports(raw, checked, host, report);
    server_ports(places, host, report);
    guard_interfaces(raw, host, report);
}

/// `*` looks like all names, and is those without a dot.
fn single_labels(places: &Places, report: &mut Report<'_>) {
    let patterns = places.routes.iter().flat_map(|route| &route.sni);
    for pattern in patterns.filter(|pattern| pattern.value.to_string() == "*") {
        report.warn(
            pattern.at,
            "\"*\" takes only names of one label, such as \"localhost\"",
            "write \"**\" for every name, or default = true in place of 'sni' for all connections",
        );
    }
}

fn short_idle(raw: &Raw, checked: &Checked, places: &Places, report: &mut Report<'_>) {
    let idle = checked.timeouts.idle;
    let Some(given) = raw.timeouts.as_ref().and_then(|timeouts| timeouts.idle.given()) else { return };
    if !idle.is_zero() && idle < POLLING_SILENCE && looks_like_polling(checked, places) {
        report.warn(
            given.at,
            format_args!(
                "'idle' of {} also ends polling connections, which are silent for up to 30 s",
                quote(&given.value)
            ),
            "write \"35s\" or more, or \"0s\" for no limit",
        );
    }
}

/// By the names and ports that Octopus and its users have for it.
fn looks_like_polling(checked: &Checked, places: &Places) -> bool {
    let is_named = |name: &str| name.to_ascii_lowercase().contains("poll");
    let patterns = places.routes.iter().flat_map(|route| &route.sni);
    checked.upstreams.iter().any(|upstream| is_named(&upstream.name))
        || checked.routes.iter().any(|route| is_named(&route.name))
        || checked.listeners.iter().any(|listener| is_named(&listener.name))
        || places.listens.iter().any(|listen| listen.value.port() == POLLING_PORT)
        || places.servers.iter().any(|server| port_of(&server.value) == POLLING_PORT)
        || patterns.into_iter().any(|pattern| is_named(&pattern.value.to_string()))
}

fn port_of(server: &Server) -> u16 {
    match server {
        Server::Address(address) => address.port(),
        Server::Name { port, .. } | Server::LinkLocal { port, .. } => *port,
    }
}

/// The packet datapath would refuse to start on this host.
fn packet_ports(raw: &Raw, checked: &Checked, host: &Host, report: &mut Report<'_>) {
    let Some(local) = &host.local_ports else { return };
    let ports = &checked.packet.ports;
    let at = match &raw.packet {
        Some(section) => Some(section.ports.given().map_or(section.at, |ports| ports.at)),
        None => {
            let mut words = raw.upstreams.iter().filter_map(|upstream| upstream.datapath.given());
            words.find(|word| word.value == Datapath::Packet.name()).map(|word| word.at)
        }
    };
    if let Some(at) = at.filter(|_| !are_own(ports, &local.range, &local.reserved)) {
        let range = local.range();
        let (first, last) = (ports.start(), ports.end());
        report.warn(
            at,
            format_args!("on this host the kernel gives ports of {first}-{last} to other connections (net.ipv4.ip_local_port_range is {range})"),
            "name other 'ports' in [packet], or add these to net.ipv4.ip_local_reserved_ports",
        );
    }
}

/// While a server on this host is down, the kernel may give its port to any connection.
fn server_ports(places: &Places, host: &Host, report: &mut Report<'_>) {
    let Some(local) = &host.local_ports else { return };
    for server in places.servers.iter().filter(|server| is_here(&server.value, host)) {
        let port = port_of(&server.value);
        if are_own(&(port..=port), &local.range, &local.reserved) {
            continue;
        }
        let range = local.range();
        report.warn(
            server.at,
            format_args!("another connection of this host may get port {port} while this server is down, and then the server cannot start (net.ipv4.ip_local_port_range is {range})"),
            format_args!("use a port outside of that range, or add {port} to net.ipv4.ip_local_reserved_ports"),
        );
    }
}

/// By what needs no look-up.
fn is_here(server: &Server, host: &Host) -> bool {
    match server {
        Server::Address(address) => host.has(address.ip()),
        Server::Name { host: name, .. } => name.eq_ignore_ascii_case("localhost"),
        Server::LinkLocal { .. } => false,
    }
}

fn guard_interfaces(raw: &Raw, host: &Host, report: &mut Report<'_>) {
    let (Some(guard), Some(known)) = (&raw.guard, &host.interfaces) else { return };
    for name in guard.interfaces.items().iter().filter(|name| !known.contains(&name.value)) {
        report.caution(name.at, |_| {
            let what = format!("this host has no interface {} now", quote(&name.value));
            Fault::new(what, "check the name with `ip link`; the guard waits for the interface")
        });
    }
}
