//! The rules of the house that no compiler checks.

mod imports;
mod names;
mod places;
mod sizes;
mod source;
mod unsafety;
mod waits;

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use self::source::Source;
use crate::process::answer;
use crate::workspace::root;

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the root of the workspace.
    path: String,
    /// From 1.
    line: usize,
    /// What is wrong and the way out.
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks all files that git knows or would take.
pub(crate) fn findings() -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for path in files()? {
        // A file that cannot be read is removed from the tree but not yet from the index, or links to a folder.
        let Ok(bytes) = fs::read(root().join(&path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            found.extend(check(&path, &text));
        }
    }
    Ok(found)
}

/// Checks one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut found = places::check(path, text);
    if !path.ends_with(".rs") {
        return found;
    }
    match Source::parse(path, text) {
        Ok(source) => {
            for rule in [imports::check, names::check, sizes::check, unsafety::check, waits::check] {
                found.extend(rule(&source));
            }
        }
        Err(finding) => found.push(finding),
    }
    found
}

fn files() -> Result<Vec<String>> {
    // The build machine's user may not own the files: reading their names is harmless.
    let mut git = Command::new("git");
    git.current_dir(root()).args(["-c", "safe.directory=*", "ls-files", "-z"]);
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
