//! `docs/benchmarks.md`, written from the results alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::plots::{Picture, pictures};
use super::table::{LEGEND, rows};
use crate::compare::{Duel, duels};
use crate::plan::SCENARIOS;
use crate::results::Results;
use crate::targets;

/// What does not depend on the results.
const METHOD: &str = include_str!("method.md");

/// Writes the page and its pictures below `docs`.
pub(crate) fn write(results: &Results, docs: &Path) -> Result<()> {
    let pictures = pictures(results);
    write_pictures(&pictures, &docs.join("benchmarks"))?;
    put(&docs.join("benchmarks.md"), &page(results, &pictures))
}

/// Writes each picture into a file of its own.
pub(crate) fn write_pictures(pictures: &[Picture], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    pictures.iter().try_for_each(|picture| put(&folder.join(picture.file), &picture.svg))
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn page(results: &Results, pictures: &[Picture]) -> String {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench --docs`, not by hand. All figures are of one machine; \
         what they say about another is their order at most.\n\n## Machine\n\n",
    );
    page += &results.facts.iter().map(|(name, value)| format!("- {name}: {value}\n")).collect::<String>();
    let versions = results.versions.iter().filter(|(_, version)| !version.is_empty());
    page += &versions.map(|(name, version)| format!("- {name}: {version}\n")).collect::<String>();
    page += "\n## Pictures\n";
    for picture in pictures {
        page += &format!("\n![{}](benchmarks/{})\n", picture.title, picture.file);
    }
    page += &losses(results);
    page += &goals(results);
    page += &gaps(results);
    page += "\n## Figures\n\n";
    page += &format!("{LEGEND}.\n");
    for scenario in SCENARIOS {
        let rows = rows(results, scenario);
        if rows.len() > 1 {
            page += &format!("\n### {}\n\n`{}`\n\n{}", scenario.title, scenario.id, markdown(&rows));
        }
    }
    page += &format!("\n{METHOD}");
    page += &configurations(results);
    page
}

/// Every case in which a rival is better.
fn losses(results: &Results) -> String {
    let duels = duels(results);
    let lost: Vec<&Duel> = duels.iter().filter(|duel| duel.is_lost()).collect();
    let mut text = format!(
        "\n## Where snisplice loses\n\nIn {} of {} comparisons of a datapath with the best rival, the rival's median is \
         better. All of them:\n\n| scenario | figure | datapath | ours | best rival | ours / rival |\n|---|---|---|---|---|---|\n",
        lost.len(),
        duels.len()
    );
    for duel in lost {
        let show = |value| duel.metric.show(value);
        text += &format!(
            "| {} | {} | {} | {} | {} ({}) | {:.2}{} |\n",
            duel.scenario.id,
            duel.metric.title(),
            duel.ours.name,
            show(duel.our_spread.median),
            show(duel.rival_spread.median),
            duel.rival.name,
            duel.ratio(),
            if duel.is_close() { ", ranges overlap" } else { "" }
        );
    }
    text
}

fn goals(results: &Results) -> String {
    let mut text = String::from("\n## Targets\n\n| target | met | what falls short |\n|---|---|---|\n");
    for verdict in targets::verdicts(results) {
        let met = verdict.checks - verdict.missed.len();
        text += &format!(
            "| {} | {met} of {} | {} |\n",
            verdict.promise,
            verdict.checks,
            verdict.missed.join("; ")
        );
    }
    text
}

/// What was not measured, so that nobody takes it for measured.
fn gaps(results: &Results) -> String {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::from("\n## Not measured\n\n");
    for (system, why) in &results.not_measured {
        text += &format!("- {system}: {}\n", one_line(why));
    }
    for (what, why) in results.failures_by_reason() {
        text += &format!("- {what}: {}\n", one_line(&why));
    }
    text += &results
        .complaints
        .iter()
        .map(|complaint| format!("- {}\n", one_line(complaint)))
        .collect::<String>();
    if results.disturbed() > 0 {
        text += &format!("- {} measurements were disturbed by other processes\n", results.disturbed());
    }
    if text.ends_with("\n\n") {
        text += "Everything was measured, and undisturbed.\n";
    }
    text
}

fn configurations(results: &Results) -> String {
    let mut text = String::from("\n## Configurations\n");
    for (system, configuration) in &results.configurations {
        text += &format!("\n{system}:\n\n```text\n{}\n```\n", configuration.trim_end());
    }
    text
}

fn markdown(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
    let mut lines = rows.iter().map(line);
    let heading = lines.next().unwrap_or_default();
    let columns = rows.first().map_or(0, Vec::len);
    heading + "|" + &"---|".repeat(columns) + "\n" + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;
    use crate::values::Metric;

    #[test]
    fn every_lost_comparison_is_named_and_no_won_one() {
        let mut results = results(&[
            ("bulk-up-1", "snisplice-copy", Metric::Rate, &[9.0, 9.1, 9.2]),
            ("bulk-up-1", "snisplice-sockmap", Metric::Rate, &[9.9, 10.4]),
            ("bulk-up-1", "haproxy", Metric::Rate, &[10.0, 10.2, 10.4]),
            ("connects", "snisplice-copy", Metric::Connects, &[5000.0]),
            ("connects", "nginx", Metric::Connects, &[4000.0]),
            ("ping-1", "snisplice-copy", Metric::P99, &[60.0]),
            ("ping-1", "nginx", Metric::P99, &[30.0]),
        ]);
        results.not_measured.insert("sniproxy".to_owned(), "no such\nprogram".to_owned());
        results.facts.insert("cores".to_owned(), "2".to_owned());
        let page = page(&results, &[]);
        for line in [
            "In 3 of 4 comparisons",
            "| bulk-up-1 | Gbit/s | snisplice-copy | 9.10 | 10.2 (haproxy) | 0.89 |\n",
            "| bulk-up-1 | Gbit/s | snisplice-sockmap | 10.2 | 10.2 (haproxy) | 1.00, ranges overlap |\n",
            "| ping-1 | p99 µs | snisplice-copy | 60.0 | 30.0 (nginx) | 2.00 |\n",
            "- sniproxy: no such program\n",
            "- cores: 2\n",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
        assert!(!page.contains("| connects | conn/s | snisplice-copy |"), "a won comparison is no loss");
    }
}
