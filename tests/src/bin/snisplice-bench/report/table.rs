//! The results as a table for the terminal.

use crate::plan::Scenario;
use crate::results::Results;
use crate::stats::Spread;
use crate::system::{SYSTEMS, System};
use crate::values::{Better, Metric};

/// The whole table, scenario by scenario.
pub(crate) fn render(results: &Results, scenarios: &[Scenario]) -> String {
    let mut text = String::new();
    for scenario in scenarios {
        scenario_table(results, scenario, &mut text);
    }
    for (system, why) in &results.not_measured {
        text += &format!("NOT MEASURED {system}: {why}\n");
    }
    for (sample, why) in results.failures() {
        text += &format!("FAILED {} of {}, round {}: {why}\n", sample.scenario, sample.system, sample.round);
    }
    let (missing, failed) = (results.not_measured.len(), results.failures().count());
    text += &format!("{missing} systems not measured, {failed} measurements failed\n");
    if results.quick {
        text += "a quick run: no basis for claims\n";
    }
    text
}

fn scenario_table(results: &Results, scenario: &Scenario, text: &mut String) {
    let metrics = results.metrics(scenario.id);
    let mut rows = vec![heading(scenario, &metrics)];
    for system in SYSTEMS {
        let cells: Vec<String> =
            metrics.iter().map(|&metric| cell(results, scenario.id, system, metric)).collect();
        if cells.iter().any(|cell| cell != "-") {
            rows.push([vec![system.name.to_owned()], cells].concat());
        }
    }
    *text += &format!("{} ({})\n", scenario.title, scenario.id);
    align(&rows, text);
    text.push('\n');
}

fn heading(scenario: &Scenario, metrics: &[Metric]) -> Vec<String> {
    let placement = format!("{:?}", scenario.placement).to_lowercase();
    [placement].into_iter().chain(metrics.iter().map(|metric| metric.title().to_owned())).collect()
}

/// The median and the range; `*` for the best rival, and for ours the ratio to that one.
fn cell(results: &Results, scenario: &str, system: System, metric: Metric) -> String {
    let Some(spread) = results.spread(scenario, system.name, metric) else { return "-".to_owned() };
    let range =
        format!("{} [{}..{}]", metric.show(spread.median), metric.show(spread.min), metric.show(spread.max));
    match best_rival(results, scenario, metric) {
        Some((best, _)) if best == system => format!("{range} *"),
        Some((_, best)) if system.is_ours() && best.median > 0.0 => {
            format!("{range} {:.2}x", spread.median / best.median)
        }
        _ => range,
    }
}

/// The rival with the best median.
pub(crate) fn best_rival(results: &Results, scenario: &str, metric: Metric) -> Option<(System, Spread)> {
    let rivals = SYSTEMS.into_iter().filter(|system| system.is_rival());
    let spreads = rivals.filter_map(|rival| Some((rival, results.spread(scenario, rival.name, metric)?)));
    let by_median =
        |one: &(System, Spread), other: &(System, Spread)| one.1.median.total_cmp(&other.1.median);
    match metric.better() {
        Better::More => spreads.max_by(by_median),
        Better::Less => spreads.min_by(by_median),
        Better::Neither => None,
    }
}

fn align(rows: &[Vec<String>], text: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, &width) in row.iter().zip(&widths) {
            line += &format!(" {cell:<width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
