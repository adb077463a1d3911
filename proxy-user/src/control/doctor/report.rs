//! What the doctor has found, for people and for scripts.

use std::fmt::Write as _;

use serde::Serialize;
use textwrap::Options;

use crate::kernel::Unavailable;

/// Columns of a terminal that every screen has.
const COLUMNS: usize = 80;

/// Columns before what was found: the level and the name of the check.
const MARGIN: usize = 6 + NAME + 2;
const NAME: usize = 16;

/// How a finding bears on the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// The daemon runs, with less.
    Warning,
    /// The daemon does not start.
    Error,
}

#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) found: String,
    /// What to change, if something is to be changed.
    pub(super) remedy: Option<String>,
    /// What the kernel has logged of a program that it refuses, all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kernel_log: Option<String>,
}

impl Finding {
    /// A finding with a remedy is a warning.
    pub(super) fn new(check: &'static str, found: impl Into<String>, remedy: Option<String>) -> Self {
        let level = if remedy.is_some() { Level::Warning } else { Level::Ok };
        Self { check, level, found: found.into(), remedy, kernel_log: None }
    }

    /// What the kernel does not do, or not for us.
    pub(super) fn unavailable(check: &'static str, Unavailable { what, remedy, log }: Unavailable) -> Self {
        Self { kernel_log: log, ..Self::new(check, what, Some(remedy)) }
    }

    /// The daemon does not start before this is changed.
    pub(super) fn error(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (level, found, remedy) = (Level::Error, found.into(), Some(remedy.into()));
        Self { check, level, found, remedy, kernel_log: None }
    }
}

/// All findings.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    kernel: String,
    /// What `datapath = "auto"` uses on this host.
    datapath: &'static str,
    findings: Vec<Finding>,
    verdict: &'static str,
}

impl Report {
    pub(super) fn new(kernel: String, datapath: &'static str, findings: Vec<Finding>) -> Self {
        let verdict = match worst(&findings) {
            Level::Ok => "ready",
            Level::Warning => "ready_with_warnings",
            Level::Error => "not_ready",
        };
        Self { version: env!("CARGO_PKG_VERSION"), kernel, datapath, findings, verdict }
    }

    /// Whether the daemon can run here.
    pub(crate) fn is_ready(&self) -> bool {
        worst(&self.findings) < Level::Error
    }

    /// For people.
    pub(crate) fn text(&self, colour: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "snisplice {} on Linux {}", self.version, self.kernel);
        for Finding { check, level, found, remedy, .. } in &self.findings {
            let (mark, paint) = match level {
                Level::Ok => ("ok  ", "\x1b[32m"),
                Level::Warning => ("warn", "\x1b[33m"),
                Level::Error => ("FAIL", "\x1b[31m"),
            };
            let mark = if colour { format!("{paint}{mark}\x1b[0m") } else { mark.to_owned() };
            let _ = writeln!(out, "{mark}  {check:<NAME$}  {}", folded(found, ""));
            if let Some(remedy) = remedy {
                let _ = writeln!(out, "{:MARGIN$}{}", "", folded(&format!("-> {remedy}"), "   "));
            }
        }
        let _ = writeln!(out, "{}", textwrap::fill(&self.verdict(), COLUMNS));
        out
    }

    fn verdict(&self) -> String {
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let warnings = match count(Level::Warning) {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            count => format!(", with {count} warnings"),
        };
        match count(Level::Error) {
            0 => {
                format!("verdict: ready{warnings}; upstreams with datapath = \"auto\" use {}", self.datapath)
            }
            _ => format!("verdict: not ready{warnings}; change what is marked FAIL first"),
        }
    }
}

fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// `text` in lines that fit beside the margin. Words that are longer than a line, such as paths, are not broken.
fn folded(text: &str, indent: &str) -> String {
    let indent = format!("{:MARGIN$}{indent}", "");
    let first = " ".repeat(MARGIN);
    let options = Options::new(COLUMNS)
        .initial_indent(&first)
        .subsequent_indent(&indent)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, options).split_off(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        Report::new("6.18.44".to_owned(), "sockmap", findings)
    }

    fn long() -> Finding {
        let found = "a long finding ".repeat(20);
        Finding::new("datapath sockmap", found.trim(), Some("a long remedy ".repeat(20).trim().to_owned()))
    }

    #[test]
    fn every_line_fits_a_small_terminal_and_has_no_colour_unless_asked_for() {
        let text = report(vec![long(), Finding::error("listen on 443", "taken", "stop it")]).text(false);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS && !line.contains('\x1b'), "{line}");
            assert_eq!(line.trim_end(), line);
        }
        assert!(text.contains("\n                        -> a long remedy a"), "{text}");
        assert!(text.contains("\n                           remedy"), "{text}");
        assert!(report(vec![long()]).text(true).contains("\x1b[33mwarn\x1b[0m"));
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding() {
        let fine = || Finding::new("open files", "unlimited", None);
        let cases = [
            (vec![fine()], "ready", "verdict: ready; upstreams with datapath = \"auto\" use sockmap\n"),
            (vec![fine(), long()], "ready_with_warnings", "verdict: ready, with 1 warning; "),
            (
                vec![Finding::error("listen on 443", "taken", "stop it"), long(), long()],
                "not_ready",
                "verdict: not ready, with 2 warnings; ",
            ),
        ];
        for (findings, word, line) in cases {
            let report = report(findings);
            assert_eq!((report.verdict, report.is_ready()), (word, word != "not_ready"));
            let text = report.text(false);
            assert!(text.lines().last().is_some_and(|last| format!("{last}\n").starts_with(line)), "{text}");
        }
    }
}
