//! The rules between entries: unique names and addresses, no loops, nothing that can never be used.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::route::{Overlap, Route, Table};

use super::compile::Checked;
use super::field::{At, Field};
use super::places::{Places, RoutePlaces};
use super::raw::Raw;
use super::report::{Fault, MAX_PROBLEMS, Report, quote};
use crate::hub::Server;
use crate::sys;

/// Patterns times sources, over all routes.
const MAX_MATCHES: usize = 100_000;

pub(super) fn check(raw: &Raw, checked: &Checked, places: &Places, report: &mut Report<'_>) {
    unique_names("listener", raw.listens.iter().map(|entry| &entry.name), report);
    unique_names("route", raw.routes.iter().map(|entry| &entry.name), report);
    unique_names("upstream", raw.upstreams.iter().map(|entry| &entry.name), report);
    used(raw, report);
    if table_size(places, report) {
        conflicts(&checked.routes, places, report);
    }
    let bound = unique_addresses(&places.listens, report);
    admin_port(&bound, checked.admin.http, report);
    no_loops(&bound, &places.servers, report);
}

fn unique_names<'r>(kind: &str, names: impl Iterator<Item = &'r Field<String>>, report: &mut Report<'_>) {
    let mut first = HashMap::new();
    for name in names.filter_map(Field::given) {
        if let Some(&at) = first.get(name.value.as_str()) {
            report.fault(name.at, |text| {
                let what = format!("the {kind} {} is already at {}", quote(&name.value), text.place(at));
                Fault::new(what, "give one of the two another name")
            });
        } else {
            first.insert(name.value.as_str(), name.at);
        }
    }
}

/// The table holds each pattern once for each source: what lists multiply to is bounded.
fn table_size(places: &Places, report: &mut Report<'_>) -> bool {
    let mut total = 0_usize;
    for route in &places.routes {
        total = total.saturating_add(route.sni.len().max(1).saturating_mul(route.source.len().max(1)));
        if total > MAX_MATCHES {
            report.error(
                route.route,
                format_args!(
                    "with this [[route]] there are more than {MAX_MATCHES} pairs of pattern and source"
                ),
                "use '*' and '**' patterns and larger networks",
            );
            return false;
        }
    }
    true
}

/// No two routes take the same: the second would never get it.
fn conflicts<T>(routes: &[Route<T>], places: &Places, report: &mut Report<'_>) {
    // To find a place walks the lists of a route: that is done for as many as are shown.
    for conflict in Table::conflicts(routes).into_iter().take(MAX_PROBLEMS) {
        let at = |route| places.routes.get(route).map_or(0, |route| place(route, &conflict.overlap));
        report.fault(at(conflict.second), |text| {
            let first = routes.get(conflict.first).map(|route| quote(&route.name)).unwrap_or_default();
            let place = text.place(at(conflict.first));
            Fault::new(
                format!("the route {first} at {place} already takes {}", conflict.overlap),
                "remove one of the two: the second would never be used",
            )
        });
    }
}

/// Where a route says what it has in common with another.
fn place(route: &RoutePlaces, overlap: &Overlap) -> usize {
    let found = match overlap {
        Overlap::Pattern(pattern, _) => {
            route.sni.iter().find(|item| item.value == *pattern).map(|item| item.at)
        }
        Overlap::Source(net) => route.source.iter().find(|item| item.value == *net).map(|item| item.at),
        Overlap::Default => Some(route.default),
    };
    found.unwrap_or(route.route)
}

/// There is something to do, and everything that is written down has a use.
fn used(raw: &Raw, report: &mut Report<'_>) {
    if raw.listens.is_empty() {
        report.error(
            0,
            "there is no [[listen]]",
            "add one with name = \"tls\" and address = [\"[::]:443\"], or start from 'snisplice config default'",
        );
    }
    let routed = raw.listens.iter().find(|listen| listen.to.is_absent());
    if let (Some(listen), true) = (routed, raw.routes.is_empty()) {
        report.error(
            listen.at,
            "this [[listen]] has no 'to', and there is no [[route]]",
            "add to = \"UPSTREAM\" to send everything to one upstream, or add a [[route]]",
        );
    }
    if let (None, Some(route)) = (routed, raw.routes.first()) {
        report.warn(
            route.at,
            "no route is used: every [[listen]] has a 'to'",
            "remove the routes, or remove 'to' from a listener",
        );
    }
    let targets: HashSet<&str> = (raw.listens.iter().map(|listen| &listen.to))
        .chain(raw.routes.iter().map(|route| &route.to))
        .filter_map(|to| to.given().map(|to| to.value.as_str()))
        .collect();
    for name in raw.upstreams.iter().filter_map(|upstream| upstream.name.given()) {
        if !targets.contains(name.value.as_str()) {
            let what = format!("nothing goes to the upstream {}", quote(&name.value));
            report.warn(name.at, what, "name it in the 'to' of a route or a listener, or remove it");
        }
    }
}

/// Addresses that are listened on, with their places.
type Bound = HashMap<SocketAddr, usize>;

fn unique_addresses(listens: &[At<SocketAddr>], report: &mut Report<'_>) -> Bound {
    let mut bound = Bound::new();
    for listen in listens {
        let address = canonical(listen.value);
        if let Some(&at) = bound.get(&address) {
            report.fault(listen.at, |text| {
                let what = format!("the address \"{address}\" is already at {}", text.place(at));
                Fault::new(what, "remove one of the two, or choose another port")
            });
        } else {
            bound.insert(address, listen.at);
        }
    }
    for listen in listens {
        let address = canonical(listen.value);
        let dual = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        if let (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Some(&other)) = (address.ip(), bound.get(&dual)) {
            report.fault(listen.at, |text| {
                let place = text.place(other);
                Fault::new(
                    format!("\"{dual}\" at {place} takes IPv4 as well, so it takes \"{address}\" too"),
                    format!("keep only \"{dual}\""),
                )
            });
        }
    }
    bound
}

/// The address as IPv4 where it is IPv4 in IPv6 form.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The listener that takes what is sent to `address` on this host, if there is one.
fn taken_by(bound: &Bound, address: SocketAddr) -> Option<(SocketAddr, usize)> {
    let local = match canonical(address) {
        any if any.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), any.port())
        }
        any if any.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), any.port())
        }
        other => other,
    };
    let mut candidates = vec![local];
    if local.ip().is_loopback() {
        candidates.push(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), local.port()));
        if local.is_ipv4() {
            candidates.push(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), local.port()));
        }
    }
    candidates.into_iter().find_map(|candidate| Some((candidate, *bound.get(&candidate)?)))
}

/// The listener on all addresses that takes what is sent to `address`, if that is an address of this host.
fn taken_by_all(bound: &Bound, address: SocketAddr) -> Option<SocketAddr> {
    let mut all = vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    if address.is_ipv4() {
        all.push(Ipv4Addr::UNSPECIFIED.into());
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, address.port())).find(|all| bound.contains_key(all))
}

fn admin_port(bound: &Bound, http: Option<SocketAddr>, report: &mut Report<'_>) {
    let Some(http) = http else { return };
    if let Some((address, at)) = taken_by(bound, http) {
        report.error(
            at,
            format_args!("\"{address}\" takes the port of the admin HTTP, \"{http}\""),
            "choose another port here or for 'http' in [admin], or write http = \"\" there",
        );
    }
}

/// A server that is one of our own listeners would take every connection round for ever.
fn no_loops(bound: &Bound, servers: &[At<Server>], report: &mut Report<'_>) {
    for server in servers {
        let looped = match &server.value {
            Server::Address(address) => taken_by(bound, *address),
            Server::Name { host, port } if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                loopback.into_iter().find_map(|ip| taken_by(bound, SocketAddr::new(ip, *port)))
            }
            Server::Name { .. } | Server::LinkLocal { .. } => None,
        };
        if let (None, Server::Address(address)) = (looped, &server.value)
            && let Some(listener) = taken_by_all(bound, *address)
            && sys::is_own_address(address.ip())
        {
            report.warn(
                server.at,
                format_args!("{address} is an address of this host, where the listener \"{listener}\" is: connections would loop"),
                "write the address and port of the service itself, or move the listener",
            );
        }
        if let Some((address, at)) = looped {
            report.fault(server.at, |text| {
                let (server, place) = (quote(&server.value.to_string()), text.place(at));
                Fault::new(
                    format!("{server} is our own listener \"{address}\" at {place}: connections would loop"),
                    "write the address and port of the service itself, or move the listener",
                )
            });
        }
    }
}
