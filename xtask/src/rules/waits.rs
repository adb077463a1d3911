//! Tests run, all of them, and wait for conditions instead of for time.

use proc_macro2::Delimiter;

use super::Finding;
use super::source::{Kind, Source};

/// What makes a sleep in the tests acceptable, on its line.
const EXCUSE: &str = "// poll interval:";

/// Finds ignored tests everywhere, and sleeps in `tests/`.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if token.ident() == Some("ignore") && is_attribute(source, at) {
            let what =
                "an ignored test checks nothing: fix it, remove it, or let it print SKIPPED: and the reason";
            found.push(Finding::new(source.path, token.line, what));
        }
        if source.path.starts_with("tests/") && is_sleep(source, at) {
            let line = source.text.lines().nth(token.line - 1).unwrap_or_default();
            if !line.contains(EXCUSE) {
                let what = format!(
                    "a test waits for a condition, not for time; a polling loop says so: {EXCUSE} why"
                );
                found.push(Finding::new(source.path, token.line, what));
            }
        }
    }
    found
}

/// True in `#[ignore`, and in `#[cfg_attr(..., ignore`.
fn is_attribute(source: &Source<'_>, at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| source.kind(at));
    let plain = before(1) == Some(&Kind::Open(Delimiter::Bracket)) && before(2) == Some(&Kind::Punct('#'));
    let conditional = before(1) == Some(&Kind::Punct(','))
        && source.kind(at + 1) == Some(&Kind::Close(Delimiter::Parenthesis))
        && source.kind(at + 2) == Some(&Kind::Close(Delimiter::Bracket));
    plain || conditional
}

/// True where a function called sleep, or its kin, is called.
fn is_sleep(source: &Source<'_>, at: usize) -> bool {
    let called = source.kind(at + 1) == Some(&Kind::Open(Delimiter::Parenthesis));
    let declared = at > 0 && source.ident(at - 1) == Some("fn");
    matches!(source.ident(at), Some("sleep" | "sleep_ms" | "sleep_until")) && called && !declared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Source::parse(path, text).unwrap()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(lines("proxy-common/src/a.rs", "#[test]\n#[ignore]\nfn a() {}"), [2]);
        assert_eq!(lines("tests/tests/a.rs", "#[ignore = \"slow\"]\nfn a() {}"), [1]);
        assert_eq!(lines("tests/tests/a.rs", "#[cfg_attr(debug_assertions, ignore)]\nfn a() {}"), [1]);
        assert!(lines("tests/tests/a.rs", "let ignore = 1; f(a, ignore); x[ignore];").is_empty());
    }

    #[test]
    fn sleeps_in_tests_need_a_reason() {
        let text = "use std::thread::sleep;\nfn f() {\n    thread::sleep(a);\n    tokio::time::sleep(a).await;\n    sleep(a);\n}";
        assert_eq!(lines("tests/src/a.rs", text), [3, 4, 5]);
        assert!(
            lines("tests/src/a.rs", "fn f() { sleep(a); } // poll interval: a process has no event")
                .is_empty()
        );
        assert!(lines("proxy-user/src/front/a.rs", text).is_empty());
    }
}
