//! Every entry by itself: its values, and the upstream that it names.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::hello::MaxHello;
use proxy_common::plan::{Choice, Datapath};
use proxy_common::route::Route;

use super::compile::{Checked, CheckedListener, CheckedUpstream};
use super::field::{At, Field};
use super::fields::{duration, list, values, within};
use super::host::Host;
use super::places::{Places, RoutePlaces};
use super::raw::{self, Raw};
use super::report::{Fault, Report, quote};
use super::upstream_names::UpstreamNames;
use super::{address, advice, guard, packet, quantity, rules, value};
use crate::hub::Server;
use crate::hub::snapshot::{Admin, Limits, Timeouts};

const DEFAULT_SOCKET: &str = "/run/snisplice/admin.sock";
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10944);
/// Of one source.
const CONNECTIONS: RangeInclusive<u32> = 0..=1_000_000;
const DEFAULT_HOLD: Duration = Duration::from_secs(15);

/// Checks the entries, then the rules between them.
pub(super) fn check(raw: &Raw, host: &Host, report: &mut Report<'_>) -> Checked {
    let names = UpstreamNames::of(raw.upstreams.iter().map(|entry| &entry.name), raw.has_unread_upstreams);
    let mut places = Places::default();
    let checked = Checked {
        listeners: raw.listens.iter().map(|entry| listener(entry, &names, &mut places, report)).collect(),
        routes: raw.routes.iter().map(|entry| route(entry, &names, &mut places, report)).collect(),
        upstreams: raw.upstreams.iter().map(|entry| upstream(entry, &mut places, report)).collect(),
        admin: admin(raw.admin.as_ref(), report),
        timeouts: timeouts(raw.timeouts.as_ref(), report),
        limits: limits(raw.limits.as_ref(), report),
        guard: raw.guard.as_ref().map(|entry| guard::check(entry, &names, report)),
        packet: packet::check(raw.packet.as_ref(), report),
    };
    rules::check(raw, &checked, &places, report);
    advice::check(raw, &checked, &places, host, report);
    checked
}

fn name(field: &Field<String>, report: &mut Report<'_>) -> Arc<str> {
    field
        .given()
        .and_then(|name| report.keep(name.at, value::name(&name.value)))
        .map(Arc::from)
        .unwrap_or_default()
}

fn listener(
    entry: &raw::Listen,
    names: &UpstreamNames<'_>,
    places: &mut Places,
    report: &mut Report<'_>,
) -> CheckedListener {
    let addresses = list(entry.address.items(), address::listen, report);
    let listener = CheckedListener {
        name: name(&entry.name, report),
        addresses: values(&addresses),
        to: (!entry.to.is_absent()).then(|| names.resolve(&entry.to, report)),
    };
    places.listens.extend(addresses);
    listener
}

fn route(
    entry: &raw::Route,
    names: &UpstreamNames<'_>,
    places: &mut Places,
    report: &mut Report<'_>,
) -> Route<Option<usize>> {
    condition(entry, report);
    let source = networks(entry.source.items(), report);
    let mut sni = list(entry.sni.items(), value::pattern, report);
    // Beside an error in the sources, the patterns would look as if they took every client.
    if matches!(entry.source, Field::Wrong) || source.len() < entry.source.items().len() {
        sni.clear();
    }
    let route = Route {
        name: name(&entry.name, report),
        sni: values(&sni),
        source: values(&source),
        to: names.resolve(&entry.to, report),
        default: entry.default.given().is_some_and(|default| default.value),
    };
    let default = entry.default.given().map_or(entry.at, |default| default.at);
    places.routes.push(RoutePlaces { route: entry.at, default, sni, source });
    route
}

/// Networks of clients. Bits beyond the prefix change nothing, as in the rules of a firewall.
fn networks(items: &[At<String>], report: &mut Report<'_>) -> Vec<At<IpNet>> {
    let mut networks = list(items, value::network, report);
    for network in &mut networks {
        if let Some(Fault { what, way_out }) = value::bits_beyond(&network.value) {
            report.warn(network.at, what, way_out);
        }
        network.value = network.value.trunc();
    }
    networks
}

/// A route takes names, sources, or what is left.
fn condition(entry: &raw::Route, report: &mut Report<'_>) {
    let default = entry.default.given().is_some_and(|default| default.value);
    let conditions = [("sni", &entry.sni), ("source", &entry.source)];
    let written = conditions.into_iter().find(|(_, field)| !field.is_absent());
    match written {
        Some((key, field)) if default => report.error(
            field.given().map_or(entry.at, |list| list.at),
            format_args!("a default route takes all that is left, so it cannot have '{key}'"),
            format_args!("remove '{key}', or remove 'default'"),
        ),
        None if !default && !matches!(entry.default, Field::Wrong) => report.error(
            entry.at,
            "this [[route]] matches nothing: it has no 'sni', no 'source' and no 'default = true'",
            "add sni = [\"www.example.com\"], or default = true for all that no other route takes",
        ),
        _ => {}
    }
}

fn upstream(entry: &raw::Upstream, places: &mut Places, report: &mut Report<'_>) -> CheckedUpstream {
    let servers = list(entry.servers.items(), address::server, report);
    unlike(&servers, report);
    let datapath = entry.datapath.given().and_then(|text| report.keep(text.at, value::datapath(&text.value)));
    let upstream = CheckedUpstream {
        name: name(&entry.name, report),
        servers: values(&servers),
        datapath: datapath.unwrap_or(Choice::Auto),
        hold: duration(&entry.hold, &quantity::HOLD, DEFAULT_HOLD, report),
    };
    places.servers.extend(servers);
    upstream
}

/// A server that is there twice is tried twice before a client is refused.
fn unlike(servers: &[At<Server>], report: &mut Report<'_>) {
    let mut first = HashMap::new();
    for server in servers {
        let at = *first.entry(&server.value).or_insert(server.at);
        if at != server.at {
            report.caution(server.at, |text| {
                let shown = quote(&server.value.to_string());
                let what =
                    format!("the server {shown} is already in this [[upstream]], at {}", text.place(at));
                Fault::new(what, "remove one of the two")
            });
        }
    }
}

fn admin(entry: Option<&raw::Admin>, report: &mut Report<'_>) -> Admin {
    let socket = entry
        .and_then(|entry| entry.socket.given())
        .and_then(|text| report.keep(text.at, value::socket(&text.value)));
    let http = entry
        .and_then(|entry| entry.http.given())
        .and_then(|text| report.keep(text.at, address::http(&text.value)));
    let http_clients = entry.and_then(|entry| entry.http_clients.given());
    let hosts = entry.map(|entry| list(entry.hosts.items(), address::own_host, report)).unwrap_or_default();
    let required = entry.map_or(&[][..], |entry| entry.ready_requires.items());
    let required = values(&list(required, value::required, report));
    Admin {
        socket: socket.unwrap_or_else(|| Some(PathBuf::from(DEFAULT_SOCKET))),
        http: http.unwrap_or(Some(DEFAULT_HTTP)),
        http_clients: http_clients.is_some_and(|given| given.value),
        hosts: values(&hosts),
        ready_requires: if required.is_empty() { vec![Datapath::Copy] } else { required },
    }
}

fn timeouts(entry: Option<&raw::Timeouts>, report: &mut Report<'_>) -> Timeouts {
    let default = Timeouts::default();
    let Some(entry) = entry else { return default };
    let idle = idle(&entry.idle, default.idle, report);
    let mut wait = |field, default| duration(field, &quantity::WAIT, default, report);
    Timeouts {
        hello: wait(&entry.hello, default.hello),
        connect: wait(&entry.connect, default.connect),
        half_close: wait(&entry.half_close, default.half_close),
        idle,
        drain: wait(&entry.drain, default.drain),
        keepalive: wait(&entry.keepalive, default.keepalive),
    }
}

fn idle(field: &Field<String>, default: Duration, report: &mut Report<'_>) -> Duration {
    let given = field.given().and_then(|text| report.keep(text.at, quantity::idle(&text.value)));
    given.unwrap_or(default)
}

fn limits(entry: Option<&raw::Limits>, report: &mut Report<'_>) -> Limits {
    let mut size = |field: Option<&Field<String>>, bounds: &RangeInclusive<u64>| {
        let given = field.and_then(Field::given);
        given.and_then(|text| report.keep(text.at, quantity::size(&text.value, bounds)))
    };
    let tcp_memory = size(entry.map(|entry| &entry.tcp_memory), &quantity::MEMORY);
    let hello_size = size(entry.map(|entry| &entry.hello_size), &quantity::HELLO);
    let hello_size = hello_size
        .map_or(MaxHello::DEFAULT, |size| MaxHello::new(usize::try_from(size).unwrap_or(usize::MAX)));
    let source_connections =
        entry.map_or(0, |entry| within(&entry.source_connections, &CONNECTIONS, 0, report));
    Limits { tcp_memory, source_connections, hello_size }
}
