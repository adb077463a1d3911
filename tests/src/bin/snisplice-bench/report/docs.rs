//! `docs/benchmarks.md` and `docs/benchmarks-datapaths.md`, written from the results alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::overview;
use super::plots::{Picture, pictures};
use super::table::{LEGEND, rows, rows_of};
use crate::compare::{Duel, duels};
use crate::plan::SCENARIOS;
use crate::results::Results;
use crate::targets;

/// What does not depend on the results.
const METHOD: &str = include_str!("method.md");

/// The beginning of the first page.
const INTRODUCTION: &str = "\
# Benchmarks

What an operator gets by default, beside other proxies with their defaults and tuned. All figures
are of one machine, which proxy and peers share; on another one only their order is comparable.
Written by `cargo xtask bench --docs`, not by hand.
";

/// How to read the first table.
const READING: &str = "
Medians; the best proxy of each row is bold. CPU time is that of the whole machine, peers included.

- `auto` is the default of snisplice.
- `auto` with `[packet]` offloads connections. It was measured with `datapath = \"packet\"`, which
  offloads under the same conditions.
- Tuned rivals have larger buffers (`-large`), and HAProxy also splicing (`-splice`).

[benchmarks-datapaths.md](benchmarks-datapaths.md) has each datapath by itself, all figures with
their ranges, the method, and the configurations.
";

/// The beginning of the second page.
const DATAPATHS: &str = "\
# Benchmarks of single datapaths

All figures of each datapath, with their ranges. [benchmarks.md](benchmarks.md) has what an operator
gets by default. Written by `cargo xtask bench --docs`, not by hand.
";

/// Writes both pages and their pictures below `docs`.
pub(crate) fn write(results: &Results, docs: &Path) -> Result<()> {
    let (pictures, overview) = (pictures(results), overview::overview(results));
    let folder = docs.join("benchmarks");
    write_pictures(&pictures, &folder)?;
    write_pictures(overview.as_slice(), &folder)?;
    put(&docs.join("benchmarks.md"), &first_page(results, overview.as_ref()))?;
    put(&docs.join("benchmarks-datapaths.md"), &second_page(results, &pictures))
}

/// Writes each picture into a file of its own.
pub(crate) fn write_pictures(pictures: &[Picture], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    pictures.iter().try_for_each(|picture| put(&folder.join(picture.file), &picture.svg))
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn first_page(results: &Results, overview: Option<&Picture>) -> String {
    let mut page = format!("{INTRODUCTION}\n{}{READING}", overview::table(results));
    page += &overview.map(shown).unwrap_or_default();
    page += "\n## Where snisplice loses\n\nComparisons with the best rival, whether tuned or not:\n\n";
    page += &overview::losses(results);
    page +=
        "\nEach of them is in [benchmarks-datapaths.md](benchmarks-datapaths.md#where-snisplice-loses).\n";
    page + &machine(results)
}

fn second_page(results: &Results, pictures: &[Picture]) -> String {
    let mut page = DATAPATHS.to_owned();
    page += "\n## Pictures\n";
    page += &pictures.iter().map(shown).collect::<String>();
    page += &losses(results);
    page += &goals(results);
    page += &gaps(results);
    page += &format!("\n## Figures\n\n{LEGEND}.\n");
    for scenario in SCENARIOS {
        let rows = rows(results, scenario);
        if rows.len() > 1 {
            page += &format!("\n### {}\n\n`{}`\n\n{}", scenario.title, scenario.id, rows_of(&rows));
        }
    }
    page += &format!("\n{METHOD}");
    page + &configurations(results)
}

/// A picture in a page.
fn shown(picture: &Picture) -> String {
    format!("\n![{}](benchmarks/{})\n", picture.title, picture.file)
}

fn machine(results: &Results) -> String {
    let mut text = "\n## Machine\n\n".to_owned();
    text += &results.facts.iter().map(|(name, value)| format!("- {name}: {value}\n")).collect::<String>();
    let versions = results.versions.iter().filter(|(_, version)| !version.is_empty());
    text + &versions.map(|(name, version)| format!("- {name}: {version}\n")).collect::<String>()
}

/// Every case in which a rival is better.
fn losses(results: &Results) -> String {
    let duels = duels(results);
    let lost: Vec<&Duel> = duels.iter().filter(|duel| duel.is_lost()).collect();
    let mut text = format!(
        "\n## Where snisplice loses\n\nIn {} of {} comparisons of a datapath with the best rival, the rival's median\n\
         is better. All of them:\n\n| scenario | figure | datapath | ours | best rival | ours / rival |\n|---|---|---|---|---|---|\n",
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

/// The targets, and the figures that fall short of them.
fn goals(results: &Results) -> String {
    let mut met = vec![["target", "met"].map(str::to_owned).to_vec()];
    let mut short = vec![["target", "figure that falls short"].map(str::to_owned).to_vec()];
    for verdict in targets::verdicts(results) {
        let checks = verdict.checks;
        met.push(vec![verdict.promise.clone(), format!("{} of {checks}", checks - verdict.missed.len())]);
        short.extend(verdict.missed.into_iter().map(|missed| vec![verdict.promise.clone(), missed]));
    }
    format!("\n## Targets\n\n{}\n{}", rows_of(&met), rows_of(&short))
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
        let page = second_page(&results, &[]);
        for line in [
            "In 3 of 4 comparisons",
            "| bulk-up-1 | Gbit/s | snisplice-copy | 9.10 | 10.2 (haproxy) | 0.89 |\n",
            "| bulk-up-1 | Gbit/s | snisplice-sockmap | 10.2 | 10.2 (haproxy) | 1.00, ranges overlap |\n",
            "| ping-1 | p99 µs | snisplice-copy | 60.0 | 30.0 (nginx) | 2.00 |\n",
            "- sniproxy: no such program\n",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
        assert!(!page.contains("| connects | conn/s | snisplice-copy |"), "a won comparison is no loss");
    }
    #[test]
    fn the_first_page_opens_with_what_an_operator_gets() {
        let mut results = results(&[
            ("bulk-up-1", "snisplice-auto", Metric::Rate, &[50.0]),
            ("bulk-up-1", "haproxy", Metric::Rate, &[22.0]),
        ]);
        results.facts.insert("cores".to_owned(), "2".to_owned());
        let page = first_page(&results, None);
        let table =
            page.find("| Upload, 1 connection, Gbit/s | - | **50.0** | - | 22.0 |").expect("the table");
        let machine = page.find("- cores: 2\n").expect("the machine");
        assert!(table < machine, "{page}");
    }
}
