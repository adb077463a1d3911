//! `[packet]`: its keys, and what they mean.

use std::net::IpAddr;

use proxy_common::packet::attach::Attach;

use super::field::{Field, Strings};
use super::fields::{duration, list, values};
use super::keys::{self, closest};
use super::report::{Fault, Report, quote};
use super::table::Table;
use super::{quantity, value};
use crate::hub::snapshot::Packet;

/// What the file says.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) at: usize,
    after: Field<String>,
    pub(super) ports: Field<String>,
    sources: Strings,
    pins: Field<String>,
    journal: Field<String>,
    attach: Field<String>,
}

pub(super) fn read(table: &mut Table<'_, '_, '_>) -> Raw {
    Raw {
        at: table.at,
        after: table.duration(&keys::AFTER),
        ports: table.string(&keys::PORTS),
        sources: table.strings(&keys::LOCAL_SOURCES),
        pins: table.string(&keys::PINS),
        journal: table.string(&keys::JOURNAL),
        attach: table.string(&keys::ATTACH),
    }
}

pub(super) fn check(entry: Option<&Raw>, report: &mut Report<'_>) -> Packet {
    let default = Packet::default();
    let Some(entry) = entry else { return default };
    let sources = values(&list(entry.sources.items(), source, report));
    Packet {
        after: duration(&entry.after, &quantity::HOLD, default.after, report),
        ports: text(&entry.ports, quantity::ports, report).unwrap_or(default.ports),
        sources: if sources.is_empty() { default.sources } else { sources },
        pins: text(&entry.pins, value::absolute, report).unwrap_or(default.pins),
        journal: text(&entry.journal, value::absolute, report).unwrap_or(default.journal),
        attach: text(&entry.attach, attach, report).unwrap_or(default.attach),
        for_auto: true,
        is_forbidden_to_auto: false,
    }
}

fn text<T>(
    field: &Field<String>,
    parse: impl Fn(&str) -> Result<T, Fault>,
    report: &mut Report<'_>,
) -> Option<T> {
    field.given().and_then(|text| report.keep(text.at, parse(&text.value)))
}

fn source(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map(|address: IpAddr| address.to_canonical()).map_err(|_| {
        Fault::new(
            format!("{} is not an IP address", quote(text)),
            "write addresses of this host, such as \"10.0.0.2\", without a port or brackets",
        )
    })
}

fn attach(text: &str) -> Result<Attach, Fault> {
    let known = || Attach::ALL.into_iter().map(Attach::name);
    Attach::ALL.into_iter().find(|attach| attach.name() == text).ok_or_else(|| {
        let way_out = match closest(text, known()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", known().collect::<Vec<_>>().join(", ")),
        };
        Fault::new(format!("{} is not a way to attach programs", quote(text)), way_out)
    })
}
