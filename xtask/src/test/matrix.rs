//! The table of kernels in docs/kernel.md: what the tests in guests came to.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::libtest::Ended;
use super::part::{Column, Part};
use crate::{setup, workspace};

/// The table stands between these lines.
const BEGIN: &str = "<!-- table of kernels: `cargo xtask test --guest` writes it -->";
const END: &str = "<!-- end of the table of kernels -->";

/// Its first lines.
const HEAD: &str = "\
| suite | Linux | sockmap | local | packet | hook | guard | copy | restore | kill -9 | bytes | result |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// Cells of a row.
const CELLS: usize = 12;

/// Columns of what can be refused, and how the checks of doctor are called.
const REFUSABLE: [(Column, &str); 4] = [
    (Column::Sockmap, "datapath sockmap"),
    (Column::Local, "datapath local"),
    (Column::Packet, "datapath packet"),
    (Column::Guard, "guard"),
];

/// What doctor has found begins so if it can be used.
const USABLE: [&str; 3] = ["self-test passed", "available", "the kernel accepts"];

/// What is known of one kernel after its tests.
pub(super) struct Played<'a> {
    pub(super) suite: &'a str,
    pub(super) release: &'a str,
    pub(super) parts: &'a [Part],
    /// As many as have ended, in the order of the parts.
    pub(super) ended: &'a [Ended],
    /// What doctor says on it.
    pub(super) doctor: &'a [String],
    pub(super) is_good: bool,
    /// MiB that a test of [`Column::Bulk`] sends each way.
    pub(super) bulk: u32,
}

impl Played<'_> {
    /// Whether doctor says that it can be used.
    fn is_usable(&self, check: &str) -> bool {
        self.found(check).is_some_and(|found| USABLE.iter().any(|word| found.starts_with(word)))
    }

    fn found(&self, check: &str) -> Option<&str> {
        self.doctor.iter().find_map(|line| {
            let words = line.get(4..)?.trim_start();
            words.strip_prefix(check)?.strip_prefix(' ').map(str::trim_start)
        })
    }

    fn cell(&self, column: Column) -> String {
        let check = REFUSABLE.iter().find(|(refusable, _)| *refusable == column);
        if check.is_some_and(|(_, check)| !self.is_usable(check)) {
            return "refused".to_owned();
        }
        let of_column = || self.parts.iter().enumerate().filter(|(_, part)| part.column == column);
        let ended = || of_column().filter_map(|(at, _)| self.ended.get(at));
        if of_column().next().is_none() {
            return "-".to_owned();
        }
        let (passed, failed) = ended().fold((0, 0), |sum, one| (sum.0 + one.passed, sum.1 + one.failed));
        let is_whole = ended().count() == of_column().count();
        if column == Column::Bulk {
            let way = usize::try_from(self.bulk).unwrap_or(0);
            return format!("{} MiB", passed * 2 * way);
        }
        match (failed, is_whole) {
            (0, true) => format!("{passed} ok"),
            (0, false) => format!("{passed} ok, not ended"),
            (failed, _) => format!("{failed} of {} failed", passed + failed),
        }
    }

    fn row(&self) -> [String; CELLS] {
        let hook = ["tcx", "clsact"].into_iter().find(|hook| {
            self.is_usable("datapath packet")
                && self.found("datapath packet").is_some_and(|found| {
                    found.strip_prefix("available by ").is_some_and(|by| by.starts_with(hook))
                })
        });
        let refused = REFUSABLE.iter().all(|(_, check)| !self.is_usable(check));
        let result = match (self.is_good, refused) {
            (true, true) => "copies",
            (true, false) => "good",
            (false, _) => "bad",
        };
        [
            self.suite.to_owned(),
            self.release.to_owned(),
            self.cell(Column::Sockmap),
            self.cell(Column::Local),
            self.cell(Column::Packet),
            hook.unwrap_or("-").to_owned(),
            self.cell(Column::Guard),
            self.cell(Column::Copy),
            self.cell(Column::Restore),
            self.cell(Column::Kill),
            self.cell(Column::Bulk),
            result.to_owned(),
        ]
    }
}

/// Puts a kernel's row into the table, in the place of an earlier one of the same suite.
pub(super) fn write(played: &Played<'_>) -> Result<PathBuf> {
    let file = workspace::root().join("docs/kernel.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (before, table, after) = split(&text).context("docs/kernel.md has no table of kernels")?;
    let mut rows = parse(table).context("the table of kernels in docs/kernel.md was changed by hand")?;
    let row = played.row();
    rows.retain(|one| one[0] != row[0]);
    rows.push(row);
    let text = format!("{before}{}{after}", render(&mut rows));
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The text before the table, the table, and the text behind it. The markers are part of what is around.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find(BEGIN)? + BEGIN.len() + 1;
    let end = begin + text.get(begin..)?.find(END)?;
    Some((text.get(..begin)?, text.get(begin..end)?, text.get(end..)?))
}

/// The rows of a table that this command has written; None if somebody else has.
fn parse(table: &str) -> Option<Vec<[String; CELLS]>> {
    let rows = table.strip_prefix(HEAD)?.lines();
    let rows: Vec<[String; CELLS]> = rows
        .map(|line| {
            let cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            let row: [String; CELLS] = cells.map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
            is_possible(&row).then_some(row)
        })
        .collect::<Option<_>>()?;
    let mut sorted = rows.clone();
    (render(&mut sorted) == table).then_some(rows)
}

/// Whether the command can write such a row.
fn is_possible(row: &[String; CELLS]) -> bool {
    let [suite, _, sockmap, local, packet, hook, guard, copy, restore, kill, bytes, result] = row;
    let counted = |cell: &String| {
        let numbers: Vec<&str> = cell.split(' ').collect();
        let is_number = |word: &str| word.parse::<usize>().is_ok();
        cell == "-"
            || matches!(numbers[..], [count, "ok"] | [count, "ok,", "not", "ended"] if is_number(count))
            || matches!(numbers[..], [bad, "of", all, "failed"] if is_number(bad) && is_number(all))
    };
    let refusable = [sockmap, local, packet, guard];
    let failed = row.iter().any(|cell| cell.contains("failed") || cell.contains("not ended"));
    setup::KERNELS.contains(&suite.as_str())
        && refusable.into_iter().all(|cell| cell == "refused" || counted(cell))
        && [copy, restore, kill].into_iter().all(counted)
        && ["tcx", "clsact", "-"].contains(&hook.as_str())
        && (bytes == "-" || bytes.strip_suffix(" MiB").is_some_and(|count| count.parse::<u32>().is_ok()))
        && match result.as_str() {
            "good" => !failed,
            "copies" => !failed && refusable.into_iter().all(|cell| cell == "refused"),
            "bad" => true,
            _ => false,
        }
}

/// In the order of the suites.
fn render(rows: &mut [[String; CELLS]]) -> String {
    rows.sort_by_key(|row| setup::KERNELS.iter().position(|suite| *suite == row[0]));
    let lines = rows.iter().map(|row| format!("| {} |\n", row.join(" | ")));
    lines.fold(HEAD.to_owned(), |text, line| text + &line)
}

#[cfg(test)]
mod tests {
    use super::super::Datapath;
    use super::*;

    fn part(column: Column) -> Part {
        Part { program: String::new(), tests: Vec::new(), datapath: Datapath::Copy, threads: "1", column }
    }

    fn doctor(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    const fn ended(passed: usize, failed: usize) -> Ended {
        Ended { passed, failed }
    }

    #[test]
    fn the_table_in_the_docs_is_one_that_the_command_has_written() {
        let text = fs::read_to_string(workspace::root().join("docs/kernel.md")).unwrap();
        let (_, table, _) = split(&text).unwrap();
        assert!(parse(table).is_some(), "run `cargo xtask test --guest`, which writes it:\n{table}");
    }

    #[test]
    fn a_row_says_what_was_played_and_a_table_that_was_changed_by_hand_is_noticed() {
        let parts = [part(Column::Sockmap), part(Column::Bulk), part(Column::Sockmap), part(Column::Kill)];
        let good = Played {
            suite: "trixie",
            release: "6.12.1",
            parts: &parts,
            ended: &[ended(2, 0), ended(1, 0), ended(3, 0), ended(1, 0)],
            doctor: &doctor(&[
                "warn  datapath sockmap  self-test passed in 9 ms, but",
                "ok    datapath packet   available by tcx, off by default",
                "warn  guard             the kernel refuses",
            ]),
            is_good: true,
            bulk: 64,
        };
        let row = good.row();
        assert_eq!(row[2..], ["5 ok", "refused", "-", "tcx", "refused", "-", "-", "1 ok", "128 MiB", "good"]);
        let table = render(&mut [row.clone()]);
        assert_eq!(parse(&table), Some(vec![row]));
        for (from, to) in
            [("5 ok", "fine"), ("128 MiB", "much"), ("good", "great"), ("| tcx ", ""), ("trixie", "mine")]
        {
            assert_eq!(parse(&table.replace(from, to)), None, "{to}");
        }
    }

    #[test]
    fn what_failed_and_what_did_not_end_is_not_good() {
        let parts = [part(Column::Copy), part(Column::Kill)];
        let doctor = doctor(&[]);
        let mut played = Played {
            suite: "sid",
            release: "7",
            parts: &parts,
            ended: &[ended(1, 2)],
            doctor: &doctor,
            is_good: false,
            bulk: 1,
        };
        let row = played.row();
        assert_eq!(
            (row[7].as_str(), row[9].as_str(), row[11].as_str()),
            ("2 of 3 failed", "0 ok, not ended", "bad")
        );
        assert!(is_possible(&row));
        played.is_good = true;
        assert!(!is_possible(&played.row()), "the command does not call this good");
    }
}
