//! A module is named after what it does.

use super::Finding;
use super::source::Source;

/// Names that say nothing.
const EMPTY: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];

/// Finds files, folders and inline modules with names that say nothing.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for part in source.path.trim_end_matches(".rs").split('/') {
        if EMPTY.contains(&part) {
            found.push(finding(source.path, 1, part));
        }
    }
    for (at, token) in source.tokens.iter().enumerate() {
        if let (Some("mod"), Some(name)) = (token.ident(), source.ident(at + 1))
            && EMPTY.contains(&name)
        {
            found.push(finding(source.path, token.line, name));
        }
    }
    found
}

fn finding(path: &str, line: usize, name: &str) -> Finding {
    Finding::new(path, line, format!("a module called {name} says nothing: name it after its purpose"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Source::parse(path, text).unwrap()).len()
    }

    #[test]
    fn names_that_say_nothing_are_found_in_paths_and_modules() {
        assert_eq!(count("proxy-user/src/utils.rs", ""), 1);
        assert_eq!(count("tests/tests/common/mod.rs", ""), 1);
        assert_eq!(count("proxy-user/src/lib.rs", "pub mod misc;\nmod helpers { }"), 2);
    }

    #[test]
    fn names_that_only_contain_one_are_fine() {
        assert_eq!(count("proxy-common/src/lib.rs", "mod utility_bill; // mod utils;\nlet common = 1;"), 0);
    }
}
