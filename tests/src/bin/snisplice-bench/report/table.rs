//! The results as tables.

use crate::compare::{Duel, best};
use crate::plan::{SCENARIOS, Scenario};
use crate::results::Results;
use crate::system::{SYSTEMS, System};
use crate::targets;
use crate::values::Metric;

/// What the marks mean.
pub(crate) const LEGEND: &str = "Median [least..most] of the rounds. * is the best rival. 1.20x is ours divided by the best rival's.\n\
     ! means that ours is worse, ~ that it is worse but the ranges overlap";

/// Everything for the terminal.
pub(crate) fn render(results: &Results) -> String {
    let mut text = String::new();
    for scenario in SCENARIOS {
        let rows = rows(results, scenario);
        if rows.len() > 1 {
            text += &format!("{} ({})\n{}\n", scenario.title, scenario.id, aligned(&rows));
        }
    }
    text += &format!("{LEGEND}\n\n{}", findings(results));
    text
}

/// Targets, and what could not be measured.
fn findings(results: &Results) -> String {
    let mut text = String::new();
    for verdict in targets::verdicts(results) {
        let (missed, checks) = (verdict.missed.len(), verdict.checks);
        let word = if missed == 0 { "met   " } else { "MISSED" };
        text += &format!("{word} {} ({} of {checks})\n", verdict.promise, checks - missed);
        text += &verdict.missed.iter().map(|missed| format!("         {missed}\n")).collect::<String>();
    }
    for (system, why) in &results.not_measured {
        text += &format!("NOT MEASURED {system}: {why}\n");
    }
    for (what, why) in results.failures_by_reason() {
        text += &format!("FAILED {what}: {why}\n");
    }
    text += &results.complaints.iter().map(|complaint| format!("FAILED {complaint}\n")).collect::<String>();
    let (missing, failed) = (results.not_measured.len(), results.failures().count());
    text += &format!(
        "{missing} systems not measured, {failed} measurements failed, {} disturbed by other processes\n",
        results.disturbed()
    );
    if results.quick {
        text += "a quick run: no basis for claims\n";
    }
    text
}

/// The table of a scenario: a heading, and a row for each system that was measured.
pub(crate) fn rows(results: &Results, scenario: Scenario) -> Vec<Vec<String>> {
    let metrics = results.metrics(scenario.id);
    let titles = metrics.iter().map(|metric| metric.title().to_owned());
    let mut rows = vec![[scenario.placement.words().to_owned()].into_iter().chain(titles).collect()];
    for system in SYSTEMS {
        let cells = metrics.iter().map(|&metric| cell(results, scenario, system, metric));
        let cells: Vec<Option<String>> = cells.collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
            rows.push([system.name.to_owned()].into_iter().chain(cells).collect());
        }
    }
    rows
}

fn cell(results: &Results, scenario: Scenario, system: System, metric: Metric) -> Option<String> {
    let spread = results.spread(scenario.id, system.name, metric)?;
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| metric.show(value));
    let range = if min == max { median } else { format!("{median} [{min}..{max}]") };
    if best(results, scenario, metric, System::is_rival).is_some_and(|(best, _)| best == system) {
        return Some(format!("{range} *"));
    }
    let duel = if system.is_ours() { Duel::of(results, scenario, metric, system) } else { None };
    Some(match duel {
        Some(duel) => {
            let mark = match (duel.is_lost(), duel.is_close()) {
                (true, false) => " !",
                (true, true) => " ~",
                (false, _) => "",
            };
            format!("{range} {:.2}x{mark}", duel.ratio())
        }
        None => range,
    })
}

/// Rows as a table in Markdown; the first one is the heading.
pub(crate) fn rows_of(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| row.iter().map(|cell| format!("| {cell} ")).collect::<String>() + "|\n";
    let line = |row: &Vec<String>| line(row).replace("|  |", "| |");
    let mut lines = rows.iter().map(line);
    let heading = lines.next().unwrap_or_default();
    let columns = rows.first().map_or(0, Vec::len);
    heading + "|" + &"---|".repeat(columns) + "\n" + &lines.collect::<String>()
}

/// Columns of equal width.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:<width$}"));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn the_table_marks_the_best_rival_and_where_ours_is_worse() {
        let mut results = results(&[
            ("bulk-up-1", "direct", Metric::Rate, &[30.0]),
            ("bulk-up-1", "snisplice-copy", Metric::Rate, &[8.0, 9.0, 10.0]),
            ("bulk-up-1", "snisplice-auto", Metric::Rate, &[20.0]),
            ("bulk-up-1", "snisplice-sockmap", Metric::Rate, &[3.0]),
            ("bulk-up-1", "haproxy", Metric::Rate, &[10.0]),
            ("bulk-up-1", "nginx", Metric::Rate, &[9.5]),
        ]);
        results.not_measured.insert("sniproxy".to_owned(), "it is not here".to_owned());
        let text = render(&results);
        for line in [
            "  snisplice-copy     9.00 [8.00..10.0] 0.90x ~\n",
            "  snisplice-sockmap  3.00 0.30x !\n",
            "  snisplice-auto     20.0 2.00x\n",
            "  haproxy            10.0 *\n",
            "  nginx              9.50\n",
            "NOT MEASURED sniproxy: it is not here\n",
            "1 systems not measured, 0 measurements failed, 0 disturbed by other processes\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
