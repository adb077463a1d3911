//! Checks of fields that several sections have: lists, numbers, times.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::field::{At, Field};
use super::report::{Fault, Report};
use super::{quantity, syntax};

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
