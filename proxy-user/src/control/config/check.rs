//! Every entry by itself: its values, and the upstream that it names.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::hello::MaxHello;
use proxy_common::plan::{Choice, Datapath};
use proxy_common::route::{Pattern, Route};

use super::compile::{Checked, CheckedListener, CheckedUpstream};
use super::host::Host;
use super::keys::closest;
use super::raw::{self, At, Field, Raw};
use super::report::{Fault, Report, quote};
use super::{address, advice, guard, packet, quantity, rules, syntax, value};
use crate::hub::snapshot::{Admin, Limits, Server, Timeouts};

const DEFAULT_SOCKET: &str = "/run/snisplice/admin.sock";
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10944);
/// Of one source.
const CONNECTIONS: RangeInclusive<u32> = 0..=1_000_000;
const DEFAULT_HOLD: Duration = Duration::from_secs(15);

/// How many names an error lists.
const MAX_LISTED: usize = 8;

/// Good values with their places, for the rules that compare them.
#[derive(Default)]
pub(super) struct Places {
    pub(super) listens: Vec<At<SocketAddr>>,
    pub(super) servers: Vec<At<Server>>,
    /// In the order of the routes.
    pub(super) routes: Vec<RoutePlaces>,
}

pub(super) struct RoutePlaces {
    pub(super) route: usize,
    pub(super) default: usize,
    pub(super) sni: Vec<At<Pattern>>,
    pub(super) source: Vec<At<IpNet>>,
}

/// Checks the entries, then the rules between them.
pub(super) fn check(raw: &Raw, host: &Host, report: &mut Report<'_>) -> Checked {
    let names = UpstreamNames::of(raw);
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

/// The upstreams by name, and in the order of the file.
pub(super) struct UpstreamNames<'r> {
    index: HashMap<&'r str, usize>,
    order: Vec<&'r str>,
    /// Whether the name of an upstream is missing, or there twice: it may be the one that seems unknown.
    is_incomplete: bool,
}

impl<'r> UpstreamNames<'r> {
    /// Of equal names the first counts; another rule reports the others.
    fn of(raw: &'r Raw) -> Self {
        let is_incomplete = raw.has_unread_upstreams;
        let mut names = Self { index: HashMap::new(), order: Vec::new(), is_incomplete };
        for (index, entry) in raw.upstreams.iter().enumerate() {
            match entry.name.given().map(|name| (&name.value, names.index.entry(&name.value))) {
                Some((name, Entry::Vacant(vacant))) => {
                    vacant.insert(index);
                    names.order.push(name);
                }
                _ => names.is_incomplete = true,
            }
        }
        names
    }

    fn resolve(&self, to: &Field<String>, report: &mut Report<'_>) -> Option<usize> {
        self.find(to.given()?, report)
    }

    pub(super) fn find(&self, to: &At<String>, report: &mut Report<'_>) -> Option<usize> {
        let index = self.index.get(to.value.as_str()).copied();
        if index.is_none() && !self.is_incomplete {
            report.fault(to.at, |_| self.unknown(&to.value));
        }
        index
    }

    fn unknown(&self, name: &str) -> Fault {
        let listed: Vec<_> = self.order.iter().take(MAX_LISTED).map(|known| quote(known)).collect();
        let more = if self.order.len() > MAX_LISTED { " and others" } else { "" };
        let way_out = match closest(name, self.order.iter().copied()) {
            _ if listed.is_empty() => {
                format!("there is no [[upstream]] yet: add one with name = {}", quote(name))
            }
            Some(near) => format!("did you mean {}? There are {}{more}", quote(near), listed.join(", ")),
            None => format!("there are {}{more}", listed.join(", ")),
        };
        Fault::new(format!("unknown upstream {}", quote(name)), way_out)
    }
}

fn name(field: &Field<String>, report: &mut Report<'_>) -> Arc<str> {
    field
        .given()
        .and_then(|name| report.keep(name.at, value::name(&name.value)))
        .map(Arc::from)
        .unwrap_or_default()
}

/// The good values of a list, with their places; the others are reported.
pub(super) fn list<T>(
    items: &[At<String>],
    parse: impl Fn(&str) -> Result<T, Fault>,
    report: &mut Report<'_>,
) -> Vec<At<T>> {
    let one = |item: &At<String>| {
        let value = syntax::literal(&item.value).and_then(&parse);
        Some(At { at: item.at, value: report.keep(item.at, value)? })
    };
    items.iter().filter_map(one).collect()
}

pub(super) fn values<T: Clone>(list: &[At<T>]) -> Vec<T> {
    list.iter().map(|item| item.value.clone()).collect()
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

pub(super) fn within(
    field: &Field<i64>,
    bounds: &RangeInclusive<u32>,
    default: u32,
    report: &mut Report<'_>,
) -> u32 {
    let Some(given) = field.given() else { return default };
    let found = u32::try_from(given.value).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
        let side = if given.value > i64::from(*bounds.end()) { "large" } else { "small" };
        Fault::new(
            format!("{} is too {side}", given.value),
            format!("write {} to {}", bounds.start(), bounds.end()),
        )
    });
    report.keep(given.at, found).unwrap_or(default)
}

pub(super) fn duration(
    field: &Field<String>,
    bounds: &RangeInclusive<Duration>,
    default: Duration,
    report: &mut Report<'_>,
) -> Duration {
    let given = field.given().and_then(|text| report.keep(text.at, quantity::duration(&text.value, bounds)));
    given.unwrap_or(default)
}
