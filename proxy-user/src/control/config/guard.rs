//! `[guard]`: its keys, and what they mean.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::abi::guard::{DEFAULT_SOURCES, MAX_BANS};
use proxy_common::guard::Policy;

use super::field::{At, Field, Strings};
use super::fields::{duration, list, values, within};
use super::keys;
use super::report::{Fault, Report, quote};
use super::table::Table;
use super::upstream_names::UpstreamNames;
use super::{quantity, value};
use crate::hub::snapshot::Guard;

const RATE: RangeInclusive<u32> = 0..=100_000_000;
const BURST: RangeInclusive<u32> = 1..=1_000_000;
const PERCENT: RangeInclusive<u32> = 0..=90;
const BITS_V4: RangeInclusive<u32> = 8..=32;
const BITS_V6: RangeInclusive<u32> = 16..=64;
const SOURCES: RangeInclusive<u32> = 1024..=1 << 22;
const BANS: RangeInclusive<u32> = 1..=MAX_BANS;
const OFFENCES: RangeInclusive<u32> = 0..=1_000_000;

/// What the file says.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) interfaces: Strings,
    mode: Field<String>,
    dry_run: Field<bool>,
    allow: Strings,
    deny: Strings,
    deny_file: Field<String>,
    syn_rate: Field<i64>,
    syn_burst: Field<i64>,
    syn_ceiling: Field<i64>,
    syn_reserve: Field<i64>,
    source_v4: Field<i64>,
    source_v6: Field<i64>,
    sources: Field<i64>,
    ban_after: Field<i64>,
    ban_window: Field<String>,
    ban_time: Field<String>,
    ban_limit: Field<i64>,
    protect: Strings,
    pin: Field<String>,
}

pub(super) fn read(table: &mut Table<'_, '_, '_>) -> Raw {
    Raw {
        interfaces: table.required(&keys::INTERFACES, Table::strings),
        mode: table.string(&keys::MODE),
        dry_run: table.boolean(&keys::DRY_RUN),
        allow: table.strings(&keys::ALLOW),
        deny: table.strings(&keys::DENY),
        deny_file: table.string(&keys::DENY_FILE),
        syn_rate: table.number(&keys::SYN_RATE),
        syn_burst: table.number(&keys::SYN_BURST),
        syn_ceiling: table.number(&keys::SYN_CEILING),
        syn_reserve: table.number(&keys::SYN_RESERVE),
        source_v4: table.number(&keys::SOURCE_V4),
        source_v6: table.number(&keys::SOURCE_V6),
        sources: table.number(&keys::WATCHED),
        ban_after: table.number(&keys::BAN_AFTER),
        ban_window: table.duration(&keys::BAN_WINDOW),
        ban_time: table.duration(&keys::BAN_TIME),
        ban_limit: table.number(&keys::BAN_LIMIT),
        protect: table.strings(&keys::PROTECT),
        pin: table.string(&keys::PIN),
    }
}

pub(super) fn check(entry: &Raw, names: &UpstreamNames<'_>, report: &mut Report<'_>) -> Guard {
    let interfaces = list(entry.interfaces.items(), value::interface, report);
    twice(&interfaces, report);
    let known = |name: &At<String>| names.find(name, report).map(|_| Arc::from(name.value.as_str()));
    let protect: Vec<Arc<str>> = entry.protect.items().iter().filter_map(known).collect();
    Guard {
        interfaces: values(&interfaces),
        native: text(&entry.mode, mode, report).unwrap_or_default(),
        dry_run: entry.dry_run.given().is_some_and(|dry_run| dry_run.value),
        allow: values(&list(entry.allow.items(), value::source, report)),
        deny: values(&list(entry.deny.items(), value::source, report)),
        deny_file: text(&entry.deny_file, value::absolute, report),
        syn_rate: within(&entry.syn_rate, &RATE, 200, report),
        syn_burst: within(&entry.syn_burst, &BURST, 400, report),
        syn_ceiling: within(&entry.syn_ceiling, &RATE, 0, report),
        syn_reserve: within(&entry.syn_reserve, &PERCENT, 20, report),
        source_bits: [
            bits(within(&entry.source_v4, &BITS_V4, 32, report)),
            bits(within(&entry.source_v6, &BITS_V6, 64, report)),
        ],
        sources: within(&entry.sources, &SOURCES, DEFAULT_SOURCES, report),
        bans: Policy {
            threshold: within(&entry.ban_after, &OFFENCES, 0, report),
            window: duration(&entry.ban_window, &quantity::WAIT, Duration::from_secs(60), report),
            time: duration(&entry.ban_time, &quantity::WAIT, Duration::from_secs(600), report),
            limit: usize::try_from(within(&entry.ban_limit, &BANS, 10_000, report)).unwrap_or(usize::MAX),
        },
        protect: entry.protect.given().map(|_| protect),
        pin: text(&entry.pin, value::absolute, report),
    }
}

fn text<T>(
    field: &Field<String>,
    parse: impl Fn(&str) -> Result<T, Fault>,
    report: &mut Report<'_>,
) -> Option<T> {
    field.given().and_then(|text| report.keep(text.at, parse(&text.value)))
}

fn bits(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn twice(interfaces: &[At<Arc<str>>], report: &mut Report<'_>) {
    for (number, one) in interfaces.iter().enumerate() {
        if interfaces.iter().take(number).any(|other| other.value == one.value) {
            report.error(
                one.at,
                format_args!("{} is there twice", quote(&one.value)),
                "remove one of the two",
            );
        }
    }
}

/// None: whatever works.
fn mode(text: &str) -> Result<Option<bool>, Fault> {
    match text {
        "auto" => Ok(None),
        "native" => Ok(Some(true)),
        "generic" => Ok(Some(false)),
        _ => Err(Fault::new(
            format!("{} is not a mode", quote(text)),
            "write \"auto\", \"native\" or \"generic\"",
        )),
    }
}
