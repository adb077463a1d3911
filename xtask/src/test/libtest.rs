//! Reads what Rust's test programs write.

/// The word with which a test says that it could not be done, before its reason.
const SKIPPED: &str = "SKIPPED: ";

/// What a run of test programs has said so far.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    pub(crate) failed: usize,
    ignored: usize,
    /// Name of a test, and why it could not be done.
    skipped: Vec<(String, String)>,
    /// Failing tests, each with what it said.
    pub(crate) failures: Vec<(String, String)>,
    part: Part,
    /// Tests that have ended, of programs that may still run.
    ended: usize,
    /// Test programs that cargo has started, and those that came to their last line.
    started: usize,
    finished: usize,
    /// What they came to, in the order in which they have ended.
    pub(crate) programs: Vec<Ended>,
    skipped_before: usize,
}

/// What one test program came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// A test that says it skipped something is not among them.
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// The part of the output that a line belongs to. Captured output comes after the tests, one block for each.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Running,
    /// What the passed tests said (`--show-output`).
    Successes,
    /// The same of the failed ones.
    Failures,
    /// A list of names, under the same heading as what came before it.
    Names,
}

impl Tally {
    /// Takes one line of standard output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.add(result);
        } else if line == "successes:" {
            self.part = if self.part == Part::Successes { Part::Names } else { Part::Successes };
        } else if line == "failures:" {
            self.part = if self.part == Part::Failures { Part::Names } else { Part::Failures };
        } else if let Some(name) = block_name(line) {
            match self.part {
                Part::Failures => self.failures.push((name.to_owned(), String::new())),
                _ => self.skipped.push((name.to_owned(), String::new())),
            }
        } else {
            self.say(line);
        }
    }

    /// Takes one line of standard error: what cargo says between the test programs.
    pub(crate) fn cargo_line(&mut self, line: &str) {
        let line = line.trim_start();
        if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
            self.started += 1;
        }
    }

    /// Test programs that died, or that a test has ended: their tests are in no figure.
    pub(crate) fn unfinished(&self) -> usize {
        self.started.saturating_sub(self.finished)
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> String {
        format!("{} tests", self.ended)
    }

    /// Tests that did what they had to. One that says it skipped something is not among them.
    pub(crate) fn passed(&self) -> usize {
        self.passed.saturating_sub(self.skipped().len())
    }

    /// Why tests did nothing, one reason for each test.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let said = self.skipped.iter().filter(|(_, why)| !why.is_empty());
        said.map(|(name, why)| format!("{name}: {why}")).collect()
    }

    /// Tests that the test program itself left out.
    pub(crate) fn ignored(&self) -> usize {
        self.ignored
    }

    fn say(&mut self, line: &str) {
        match self.part {
            Part::Running => {
                if line.starts_with("test ") {
                    self.ended += 1;
                }
            }
            Part::Names => {}
            Part::Successes => {
                if let (Some(why), Some((_, reasons))) = (line.strip_prefix(SKIPPED), self.skipped.last_mut())
                {
                    let comma = if reasons.is_empty() { "" } else { "; " };
                    reasons.push_str(comma);
                    reasons.push_str(why);
                }
            }
            Part::Failures => {
                if let Some((_, said)) = self.failures.last_mut() {
                    said.push_str(line);
                    said.push('\n');
                }
            }
        }
    }

    /// Adds the figures of `ok. 5 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, result: &str) {
        let count = |what: &str| -> usize {
            let mut parts = result.split(['.', ';']).map(str::trim);
            parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok()).unwrap_or(0)
        };
        self.finished += 1;
        self.passed += count("passed");
        self.failed += count("failed");
        // What its tests have skipped was said before this line.
        let skipped = self.skipped().len();
        let passed = count("passed").saturating_sub(skipped - self.skipped_before);
        self.skipped_before = skipped;
        self.programs.push(Ended { passed, failed: count("failed") });
        self.ignored += count("ignored");
        self.part = Part::Running;
    }
}

/// `name` of `---- name stdout ----`.
fn block_name(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "
running 5 tests
test a ... ok
test b ... FAILED
test c ... ok
test d ... ignored
test e ... ok

successes:

---- a stdout ----
SKIPPED: this kernel has no sockmap
SKIPPED: and no tun

---- c stdout ----
just words about SKIPPED: things

successes:
    a
    c
    e

failures:

---- b stdout ----
thread 'b' panicked at tests/b.rs:3:
left is not right
SKIPPED: not counted, it failed

failures:
    b

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s

running 1 test
test f ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn results_of_all_programs_add_up_and_a_skip_is_no_pass() {
        let tally = tally(RUN);
        assert_eq!((tally.passed(), tally.failed, tally.ignored()), (3, 1, 1));
        assert_eq!(tally.skipped(), ["a: this kernel has no sockmap; and no tun"]);
        assert_eq!(tally.progress(), "6 tests");
        assert_eq!(tally.programs, [Ended { passed: 2, failed: 1 }, Ended { passed: 1, failed: 0 }]);
    }

    #[test]
    fn a_failing_test_keeps_its_words() {
        let failures = tally(RUN).failures;
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].0, "b");
        assert!(failures[0].1.contains("left is not right"));
        assert!(!failures[0].1.contains("    b"), "the list of names is no part of it");
    }

    #[test]
    fn a_program_that_ends_before_its_last_line_is_missed() {
        let mut tally = Tally::default();
        tally.cargo_line("     Running unittests src/lib.rs (target/debug/deps/a-1)");
        tally.line("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally.unfinished(), 0);
        tally.cargo_line("     Running tests/b.rs (target/debug/deps/b-1)");
        tally.line("test one ... ok");
        assert_eq!(tally.unfinished(), 1);
    }

    #[test]
    fn a_program_that_says_nothing_ran_nothing() {
        let tally = tally("   Compiling x\nerror: no\n");
        assert_eq!((tally.passed(), tally.failed, tally.ignored()), (0, 0, 0));
    }
}
