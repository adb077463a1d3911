//! What the stages of `test` came to.

use std::time::Duration;

use super::libtest::Ended;
use crate::console::{Tone, paint};

/// One stage, as the table at the end shows it.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) passed: usize,
    /// What failed, one line each.
    pub(crate) failed: Vec<String>,
    /// What was skipped and why, one line each.
    pub(crate) skipped: Vec<String>,
    /// What somebody should look at, though nothing says that it is about this tree, one line each.
    pub(crate) warnings: Vec<String>,
    pub(crate) took: Duration,
    /// What its test programs came to, and what doctor says where they were played, if that is another kernel.
    pub(crate) programs: Vec<Ended>,
    pub(crate) doctor: Vec<String>,
}

impl Stage {
    /// How many things it did, or left undone with a reason.
    pub(crate) fn ran(&self) -> usize {
        self.passed + self.failed.len() + self.skipped.len()
    }
}

/// The table, what was skipped, what failed, and the last line.
pub(crate) fn render(stages: &[Stage]) -> String {
    let width = stages.iter().map(|stage| stage.name.len()).chain([5]).max().unwrap_or(5);
    let mut text = format!("\n{:width$}  passed  failed  skipped  seconds\n", "stage");
    for stage in stages {
        let (failed, skipped) = (stage.failed.len(), stage.skipped.len());
        let row = format!(
            "{:width$}  {:6}  {failed:6}  {skipped:7}  {:7.1}",
            stage.name,
            stage.passed,
            stage.took.as_secs_f32()
        );
        text.push_str(&if failed > 0 { paint(Tone::Bad, &row) } else { row });
        text.push('\n');
    }
    let mut list = |tone, word: &str, of: fn(&Stage) -> &[String]| {
        for stage in stages {
            for line in of(stage) {
                text.push_str(&paint(tone, &format!("{word} {}: {line}", stage.name)));
                text.push('\n');
            }
        }
    };
    list(Tone::Loud, "SKIPPED", |stage| &stage.skipped);
    list(Tone::Loud, "WARNING", |stage| &stage.warnings);
    list(Tone::Bad, "FAILED", |stage| &stage.failed);
    let passed: usize = stages.iter().map(|stage| stage.passed).sum();
    let failed: usize = stages.iter().map(|stage| stage.failed.len()).sum();
    let skipped: usize = stages.iter().map(|stage| stage.skipped.len()).sum();
    let warnings: usize = stages.iter().map(|stage| stage.warnings.len()).sum();
    text.push_str(&format!("{passed} passed, {failed} failed, {skipped} skipped"));
    if warnings > 0 {
        text.push_str(&format!(", {warnings} warnings"));
    }
    text
}

/// True when nothing failed.
pub(crate) fn is_good(stages: &[Stage]) -> bool {
    stages.iter().all(|stage| stage.failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, passed: usize, failed: &[&str], skipped: &[&str]) -> Stage {
        let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Stage {
            name: name.to_owned(),
            passed,
            failed: own(failed),
            skipped: own(skipped),
            ..Stage::default()
        }
    }

    #[test]
    fn the_last_line_stands_alone_and_counts_everything() {
        let stages =
            [stage("lint", 4, &[], &["advisories: no network"]), stage("unit", 30, &["a", "b"], &[])];
        let text = render(&stages);
        assert_eq!(text.lines().next_back(), Some("34 passed, 2 failed, 1 skipped"));
        assert!(text.contains("SKIPPED lint: advisories: no network\n"));
        assert!(text.contains("FAILED unit: b\n"));
        assert!(!is_good(&stages));
    }

    #[test]
    fn warnings_are_told_and_counted() {
        let warned =
            Stage { warnings: vec!["the machine was busy".to_owned()], ..stage("unit", 3, &[], &[]) };
        let text = render(std::slice::from_ref(&warned));
        assert!(text.contains("WARNING unit: the machine was busy\n"));
        assert_eq!(text.lines().next_back(), Some("3 passed, 0 failed, 0 skipped, 1 warnings"));
        assert!(is_good(&[warned]));
    }

    #[test]
    fn a_run_without_failures_is_good() {
        assert!(is_good(&[stage("unit", 1, &[], &["x"])]));
    }
}
