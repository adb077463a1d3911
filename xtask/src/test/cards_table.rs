//! The table of docs/cards.md, as the tests measured it.

use std::fs;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Lines of the tests' output that are rows: combination, datapath, result, bytes checked, bytes of a packet.
const ROW: &str = "cards row: ";

/// Around the table.
const BEGIN: &str = "<!-- written by `cargo xtask test --cards`: begin -->\n";
const END: &str = "<!-- end -->";

const HEAD: &str = "| combination | kernel | datapath | result | bytes checked | bytes in a packet |\n|---|---|---|---|---|---|\n";

/// Puts the rows of a run on `kernel` into the place of those that were there. `all`: no other rows of that kernel remain.
pub(super) fn write(log: &str, kernel: &str, all: bool) -> Result<()> {
    let file = workspace::root().join("docs/cards.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let new = replaced(&text, &rows(log), kernel, all).context("docs/cards.md has no place for the table")?;
    fs::write(&file, new).with_context(|| format!("cannot write {}", file.display()))
}

/// Combination, and all else.
fn rows(log: &str) -> Vec<(String, String)> {
    let lines = log.lines().filter_map(|line| line.trim_end().strip_prefix(ROW));
    let row = |line: &str| line.split_once(" | ").map(|(name, rest)| (name.to_owned(), rest.to_owned()));
    lines.filter_map(row).collect()
}

fn replaced(text: &str, rows: &[(String, String)], kernel: &str, all: bool) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let is_kept = |line: &&str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, on) = (cells.next(), cells.next());
        on != Some(kernel) || !(all || rows.iter().any(|(new, _)| Some(new.as_str()) == name))
    };
    let mut lines: Vec<String> = old.lines().skip(2).filter(is_kept).map(str::to_owned).collect();
    lines.extend(rows.iter().map(|(name, rest)| format!("| {name} | {kernel} | {rest} |")));
    lines.sort_by_key(|line| line.split('|').nth(2).map(str::to_owned));
    let table = lines.iter().fold(HEAD.to_owned(), |text, line| text + line + "\n");
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_same_kernel_are_replaced_and_others_stay() {
        let text =
            format!("a\n{BEGIN}{HEAD}| x | 6.1 | old |\n| y | 6.1 | y |\n| x | 6.12 | z |\n{END}\nb\n");
        let log = "noise\ncards row: x | new\n";
        let new = replaced(&text, &rows(log), "6.1", false).unwrap();
        assert_eq!(
            new,
            format!("a\n{BEGIN}{HEAD}| y | 6.1 | y |\n| x | 6.1 | new |\n| x | 6.12 | z |\n{END}\nb\n")
        );
        let new = replaced(&text, &rows(log), "6.1", true).unwrap();
        assert!(!new.contains("| y |") && new.contains("| x | 6.12 | z |"));
        assert!(replaced("no markers", &[], "6.1", true).is_none());
    }
}
