//! The shape of the file: sections, keys and types, with the place of every value.
//!
//! The table is walked by hand. A derived reader stops at the first error; this one goes on.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::field::{Field, Strings};
use super::keys::{self, Section};
use super::report::Report;
use super::table::{Table, article};
use super::unknown::unknown_section;
use super::{guard, packet};

#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) listens: Vec<Listen>,
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Vec<Upstream>,
    /// Whether something stands in the place of upstreams, or of one of them, that is none.
    pub(super) has_unread_upstreams: bool,
    pub(super) admin: Option<Admin>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) limits: Option<Limits>,
    pub(super) guard: Option<guard::Raw>,
    pub(super) packet: Option<packet::Raw>,
}

#[derive(Debug)]
pub(super) struct Listen {
    pub(super) at: usize,
    pub(super) name: Field<String>,
    pub(super) address: Strings,
    pub(super) to: Field<String>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) at: usize,
    pub(super) name: Field<String>,
    pub(super) sni: Strings,
    pub(super) source: Strings,
    pub(super) default: Field<bool>,
    pub(super) to: Field<String>,
}

#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: Field<String>,
    pub(super) servers: Strings,
    pub(super) datapath: Field<String>,
    pub(super) hold: Field<String>,
}

#[derive(Debug)]
pub(super) struct Admin {
    pub(super) socket: Field<String>,
    pub(super) http: Field<String>,
    pub(super) http_clients: Field<bool>,
    pub(super) hosts: Strings,
    pub(super) ready_requires: Strings,
}

#[derive(Debug)]
pub(super) struct Timeouts {
    pub(super) hello: Field<String>,
    pub(super) connect: Field<String>,
    pub(super) half_close: Field<String>,
    pub(super) idle: Field<String>,
    pub(super) drain: Field<String>,
    pub(super) keepalive: Field<String>,
}

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) tcp_memory: Field<String>,
    pub(super) source_connections: Field<i64>,
    pub(super) hello_size: Field<String>,
}

/// Reads the whole document and reports everything that is not of the known shape.
pub(super) fn read(document: &DeTable<'_>, report: &mut Report<'_>) -> Raw {
    for key in document.keys() {
        if !keys::SECTIONS.iter().any(|section| section.name == key.get_ref()) {
            report.fault(key.span().start, |_| unknown_section(key.get_ref()));
        }
    }
    Raw {
        listens: entries(document, &keys::LISTEN, report, |table| Listen {
            at: table.at,
            name: table.required(&keys::NAME, Table::string),
            address: table.required(&keys::ADDRESS, Table::strings),
            to: table.string(&keys::TO),
        }),
        routes: entries(document, &keys::ROUTE, report, |table| Route {
            at: table.at,
            name: table.required(&keys::NAME, Table::string),
            sni: table.strings(&keys::SNI),
            source: table.strings(&keys::SOURCE),
            default: table.boolean(&keys::DEFAULT),
            to: table.required(&keys::TO, Table::string),
        }),
        upstreams: entries(document, &keys::UPSTREAM, report, |table| Upstream {
            name: table.required(&keys::NAME, Table::string),
            servers: table.required(&keys::SERVERS, Table::strings),
            datapath: table.string(&keys::DATAPATH),
            hold: table.duration(&keys::HOLD),
        }),
        has_unread_upstreams: document
            .get(keys::UPSTREAM.name)
            .is_some_and(|found| !is_tables(found.get_ref())),
        admin: single(document, &keys::ADMIN, report, |table| Admin {
            socket: table.string(&keys::SOCKET),
            http: table.string(&keys::HTTP),
            http_clients: table.boolean(&keys::HTTP_CLIENTS),
            hosts: table.strings(&keys::HOSTS),
            ready_requires: table.strings(&keys::READY_REQUIRES),
        }),
        timeouts: single(document, &keys::TIMEOUTS, report, |table| Timeouts {
            hello: table.duration(&keys::HELLO),
            connect: table.duration(&keys::CONNECT),
            half_close: table.duration(&keys::HALF_CLOSE),
            idle: table.duration(&keys::IDLE),
            drain: table.duration(&keys::DRAIN),
            keepalive: table.duration(&keys::KEEPALIVE),
        }),
        limits: single(document, &keys::LIMITS, report, |table| Limits {
            tcp_memory: table.string(&keys::TCP_MEMORY),
            source_connections: table.number(&keys::SOURCE_CONNECTIONS),
            hello_size: table.string(&keys::HELLO_SIZE),
        }),
        guard: single(document, &keys::GUARD, report, guard::read),
        packet: single(document, &keys::PACKET, report, packet::read),
    }
}

fn is_tables(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Array(list) => list.iter().all(|entry| entry.get_ref().is_table()),
        other => other.is_table(),
    }
}

/// A `[[section]]`: one value for each entry. Not there is no entry.
fn entries<T>(
    document: &DeTable<'_>,
    section: &'static Section,
    report: &mut Report<'_>,
    read: impl Fn(&mut Table<'_, '_, '_>) -> T,
) -> Vec<T> {
    let Some(value) = document.get(section.name) else { return Vec::new() };
    match value.get_ref() {
        DeValue::Array(list) => {
            list.iter().filter_map(|entry| table(section, entry, report, &read)).collect()
        }
        // `[section]` for `[[section]]`: an error, and its keys are looked at all the same.
        other => {
            not_this_section(section, value, report);
            if other.is_table() {
                table(section, value, report, &read).into_iter().collect()
            } else {
                Vec::new()
            }
        }
    }
}

/// A `[section]` that may be left out.
fn single<T>(
    document: &DeTable<'_>,
    section: &'static Section,
    report: &mut Report<'_>,
    read: impl Fn(&mut Table<'_, '_, '_>) -> T,
) -> Option<T> {
    table(section, document.get(section.name)?, report, &read)
}

fn table<T>(
    section: &'static Section,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
    read: &impl Fn(&mut Table<'_, '_, '_>) -> T,
) -> Option<T> {
    let Some(entries) = value.get_ref().as_table() else {
        not_this_section(section, value, report);
        return None;
    };
    Some(read(&mut Table::open(section, value.span().start, entries, report)))
}

fn not_this_section(section: &Section, value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) {
    let (name, at) = (section.name, value.span().start);
    let way_out = match (section.repeated, value.get_ref()) {
        (true, DeValue::Table(_)) => {
            let what = format_args!("there can be several of '{name}', so [{name}] is not enough");
            return report.error(at, what, format_args!("use [[{name}]] for each of them"));
        }
        (false, DeValue::Array(_)) => {
            let what = format_args!("there is only one '{name}', so [[{name}]] is too much");
            return report.error(at, what, format_args!("use [{name}]"));
        }
        (true, _) => format!("write {section}, once for each entry, and its keys below it"),
        (false, _) => format!("write {section}, once, and its keys below it"),
    };
    report.error(at, format_args!("'{name}' is not {}", article(value.get_ref())), way_out);
}
