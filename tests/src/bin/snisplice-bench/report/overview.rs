//! What an operator gets by default, beside other proxies with their defaults and tuned.

use super::plots::{Picture, Subject, picture};
use super::table::rows_of;
use crate::compare::{best, duels};
use crate::plan::Scenario;
use crate::results::Results;
use crate::stats::Spread;
use crate::system::System;
use crate::values::{Better, Metric};

/// The default, and the default with a `[packet]` section, each with its column.
const OURS: [(&str, &str); 2] =
    [("snisplice-auto", "`auto`"), ("snisplice-packet", "`auto` with `[packet]`")];

/// Proxies with their defaults, each with its column.
const DEFAULTS: [(&str, &str); 3] = [("haproxy", "HAProxy"), ("nginx", "nginx"), ("sniproxy", "sniproxy")];

/// The figures of the table.
const FIGURES: [(&str, Metric); 14] = [
    ("bulk-up-1", Metric::Rate),
    ("bulk-down-1", Metric::Rate),
    ("bulk-up-32", Metric::Rate),
    ("bulk-down-32", Metric::Rate),
    ("paced-up", Metric::CpuPerGigabyte),
    ("paced-down", Metric::CpuPerGigabyte),
    ("ping-1-busy", Metric::P50),
    ("ping-64", Metric::P50),
    ("ping-64", Metric::P99),
    ("connects", Metric::Connects),
    ("connects", Metric::FirstByteP99),
    ("idle", Metric::UserPerFlow),
    ("idle", Metric::KernelOverDirect),
    ("storm", Metric::StormMillis),
];

/// The figures of the picture.
const PANELS: [(&str, Metric); 6] = [
    ("bulk-down-1", Metric::Rate),
    ("bulk-down-32", Metric::Rate),
    ("paced-down", Metric::CpuPerGigabyte),
    ("ping-64", Metric::P50),
    ("connects", Metric::Connects),
    ("idle", Metric::KernelOverDirect),
];

/// The picture of the first page.
pub(super) fn overview(results: &Results) -> Option<Picture> {
    let subject = Subject {
        file: "defaults.svg",
        title: "snisplice by default, other proxies by default and tuned",
        panels: &PANELS,
    };
    picture(results, &subject, name_of)
}

/// The name of a system in the picture; none for what an operator has to choose on purpose.
fn name_of(system: System) -> Option<&'static str> {
    match system.name {
        "direct" => Some("no proxy"),
        "snisplice-auto" => Some("auto"),
        "snisplice-packet" => Some("auto + [packet]"),
        name => system.is_rival().then_some(name),
    }
}

/// The table of the first page.
pub(super) fn table(results: &Results) -> String {
    let columns = OURS.iter().chain(&DEFAULTS).map(|(_, column)| *column);
    let head = ["", "no proxy"].into_iter().chain(columns).chain(["best tuned rival"]);
    let mut rows = vec![head.map(str::to_owned).collect()];
    rows.extend(FIGURES.iter().filter_map(|&(id, metric)| row(results, Scenario::with_id(id)?, metric)));
    rows_of(&rows)
}

fn row(results: &Results, scenario: Scenario, metric: Metric) -> Option<Vec<String>> {
    let direct = results.spread(scenario.id, "direct", metric);
    let tuned = best(results, scenario, metric, System::is_tuned);
    let named = OURS.iter().chain(&DEFAULTS).map(|(name, _)| results.spread(scenario.id, name, metric));
    let named: Vec<Option<Spread>> = named.collect();
    let proxies = named.iter().flatten().chain(tuned.as_ref().map(|(_, spread)| spread));
    let medians = proxies.map(|spread| spread.median);
    let winner = match metric.better() {
        Better::More => medians.max_by(f64::total_cmp)?,
        _ => medians.min_by(f64::total_cmp)?,
    };
    let show = |median: f64| {
        let figure = metric.show(median);
        if median == winner { format!("**{figure}**") } else { figure }
    };
    let cell = |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| show(spread.median));
    let title = format!("{}, {}", scenario.title, metric.title());
    let mut row = vec![title, direct.map_or_else(|| "-".to_owned(), |spread| metric.show(spread.median))];
    row.extend(named.into_iter().map(cell));
    row.push(tuned.map_or_else(
        || "-".to_owned(),
        |(system, spread)| format!("{} ({})", show(spread.median), system.name),
    ));
    Some(row)
}

/// How often a rival is better than what an operator gets.
pub(super) fn losses(results: &Results) -> String {
    let duels = duels(results);
    let head = ["", "comparisons", "a rival is better", "of these the ranges overlap"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (name, column) in OURS {
        let all: Vec<_> = duels.iter().filter(|duel| duel.ours.name == name).collect();
        let lost: Vec<_> = all.iter().filter(|duel| duel.is_lost()).collect();
        let close = lost.iter().filter(|duel| duel.is_close()).count();
        let counts = [all.len(), lost.len(), close].map(|count| count.to_string());
        rows.push([column.to_owned()].into_iter().chain(counts).collect());
    }
    rows_of(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SCENARIOS;
    use crate::results::tests::results;
    use crate::system::SYSTEMS;

    fn figures() -> Results {
        results(&[
            ("bulk-down-1", "direct", Metric::Rate, &[67.0]),
            ("bulk-down-1", "snisplice-auto", Metric::Rate, &[49.0, 48.0, 50.0]),
            ("bulk-down-1", "snisplice-packet", Metric::Rate, &[61.0]),
            ("bulk-down-1", "snisplice-copy", Metric::Rate, &[70.0]),
            ("bulk-down-1", "haproxy", Metric::Rate, &[22.0]),
            ("bulk-down-1", "haproxy-splice", Metric::Rate, &[41.0]),
            ("bulk-down-1", "nginx-large", Metric::Rate, &[38.0]),
            ("connects", "snisplice-auto", Metric::Connects, &[17.0]),
            ("connects", "haproxy", Metric::Connects, &[20.0]),
        ])
    }

    #[test]
    fn the_table_has_defaults_and_the_best_tuned_rival_and_marks_the_best_proxy() {
        let table = table(&figures());
        for line in [
            "| | no proxy | `auto` | `auto` with `[packet]` | HAProxy | nginx | sniproxy | best tuned rival |\n",
            "| Download, 1 connection, Gbit/s | 67.0 | 49.0 | **61.0** | 22.0 | - | - | 41.0 (haproxy-splice) |\n",
            "| New connections, 32 clients, conn/s | - | 17.0 | - | **20.0** | - | - | - |\n",
        ] {
            assert!(table.contains(line), "{line:?} is not in\n{table}");
        }
        assert!(!table.contains("70.0"), "a single datapath is no default");
    }

    #[test]
    fn losses_are_counted_for_what_an_operator_gets() {
        let losses = losses(&figures());
        assert!(losses.contains("| `auto` | 2 | 1 | 0 |\n"), "{losses}");
        assert!(losses.contains("| `auto` with `[packet]` | 1 | 0 | 0 |\n"), "{losses}");
    }

    #[test]
    fn the_picture_shows_no_single_datapath() {
        let picture = overview(&figures()).unwrap();
        assert!(picture.svg.contains(">auto + [packet]<") && picture.svg.contains(">haproxy-splice<"));
        assert!(!picture.svg.contains("snisplice-copy"));
    }

    #[test]
    fn every_figure_and_system_is_known() {
        let ids = SCENARIOS.map(|scenario| scenario.id);
        assert!(FIGURES.iter().chain(&PANELS).all(|(id, _)| ids.contains(id)));
        let names = SYSTEMS.map(|system| system.name);
        assert!(OURS.iter().chain(&DEFAULTS).all(|(name, _)| names.contains(name)));
    }
}
