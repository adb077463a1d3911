//! The project rules that no compiler checks.

mod circles;
mod imports;
mod modules;
mod names;
mod places;
mod plain;
mod sizes;
mod source;
mod unsafety;
mod waits;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use self::source::Source;
use crate::process::answer;

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the root of the workspace.
    path: String,
    /// From 1.
    line: usize,
    /// What is wrong and the way out.
    what: String,
    /// The rule, for counts.
    rule: &'static str,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), rule: "" }
    }

    /// The same finding, of the named rule.
    fn of(self, rule: &'static str) -> Self {
        Self { rule, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A rule for Rust files.
type Rule = fn(&Source<'_>) -> Vec<Finding>;

/// The rules for Rust files.
const RULES: [(&str, Rule); 7] = [
    ("imports", imports::check),
    ("names that say nothing", names::check),
    ("sizes", sizes::check),
    ("unsafe", unsafety::check),
    ("waits", waits::check),
    ("messages", plain::messages),
    ("names in the code", plain::vocabulary::check),
];

/// Checks all files below `tree` that git knows or would take.
pub(crate) fn findings(tree: &Path) -> Result<Vec<Finding>> {
    let (mut found, mut sources) = (Vec::new(), Vec::new());
    for path in files(tree)? {
        // A file that cannot be read is removed from the tree but not yet from the index, or links to a folder.
        let Ok(bytes) = fs::read(tree.join(&path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            found.extend(check(&path, &text));
            if path.ends_with(".md") {
                found.extend(plain::links::check(tree, &path, &text));
            }
            if path.ends_with(".rs") {
                sources.push((path, text));
            }
        }
    }
    found.extend(named("circles of imports", circles::check(&sources)));
    Ok(found)
}

/// How many findings each rule has.
pub(crate) fn by_rule(findings: &[Finding]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.rule).or_default() += 1;
    }
    counts
}

/// Checks one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        places::check(path, text).into_iter().map(|finding| finding.of("places")).collect();
    if path.ends_with(".md") {
        found.extend(plain::page(path, text));
    }
    if path.ends_with(".rs") {
        match Source::parse(path, text) {
            Ok(source) => found.extend(RULES.iter().flat_map(|(name, rule)| named(name, rule(&source)))),
            Err(finding) => found.push(finding.of("syntax")),
        }
    }
    found
}

/// Gives findings the name of their rule, unless they have one that says more.
fn named(rule: &'static str, findings: Vec<Finding>) -> impl Iterator<Item = Finding> {
    findings.into_iter().map(move |finding| if finding.rule.is_empty() { finding.of(rule) } else { finding })
}

fn files(tree: &Path) -> Result<Vec<String>> {
    // The build machine's user may not own the files: reading their names is harmless.
    let mut git = Command::new("git");
    git.current_dir(tree).args(["-c", "safe.directory=*", "ls-files", "-z"]);
    git.args(["--cached", "--others", "--exclude-standard"]);
    let list = answer(&mut git).context("git cannot list the files\n  remedy: run this in a git checkout")?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_applied_to_rust_files() {
        let text = "mod utils {}\nfn f() { unsafe { g() } }\nuse crate::kernel::x;\n#[ignore]\nfn t() {}\n";
        let rules = check("proxy-user/src/hub/x.rs", text);
        assert_eq!(rules.len(), 4, "{rules:?}");
        assert_eq!(check("tests/tests/x.rs", "#[test]\n#[ignore]\nfn t() {}\n").len(), 1);
        assert_eq!(check("xtask/src/x.rs", &"\n".repeat(401)).len(), 1);
    }

    #[test]
    fn text_that_is_no_rust_is_reported_where_it_breaks() {
        let found = check("xtask/src/x.rs", "fn f() {\n    )\n}\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("xtask/src/x.rs:2: "), "{}", found[0]);
    }
}
