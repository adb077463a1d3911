//! A file has one purpose, a function fits a screen.

use proc_macro2::Delimiter;

use super::Finding;
use super::source::{Kind, Source};

/// Lines of a file.
const FILE: usize = 400;

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION: usize = 60;

/// Finds files and functions that are too long.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE {
        found.push(Finding::new(source.path, 1, format!("{lines} lines: split it, {FILE} is the limit")));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        // Types such as `fn(u8)` and macro patterns such as `fn $name` have no name here.
        if let (Some("fn"), Some(name)) = (token.ident(), source.ident(at + 1))
            && let Some(end) = body_end(source, at + 2)
        {
            let length = end + 1 - token.line;
            if length > FUNCTION {
                let what = format!("fn {name} has {length} lines: split it, {FUNCTION} is the limit");
                found.push(Finding::new(source.path, token.line, what));
            }
        }
    }
    found
}

/// The last line of the body of the function whose parameters begin at `at`; none if it has no body.
fn body_end(source: &Source<'_>, mut at: usize) -> Option<usize> {
    loop {
        match source.kind(at)? {
            Kind::Punct(';') => return None,
            Kind::Open(Delimiter::Brace) => {
                return source.tokens.get(source.close_of(at)?).map(|end| end.line);
            }
            Kind::Open(_) => at = source.close_of(at)? + 1,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize, inside: &str) -> String {
        format!(
            "fn long(a: [u8; 3])\nwhere\n    u8: Copy,\n{{\n{}}}\n",
            format!("{inside}\n").repeat(lines - 5)
        )
    }

    fn lines(text: &str) -> Vec<usize> {
        check(&Source::parse("a.rs", text).unwrap()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_limits_are_400_and_60_lines() {
        assert!(lines(&"\n".repeat(400)).is_empty());
        assert_eq!(lines(&"\n".repeat(401)), [1]);
        assert!(lines(&function(60, "g();")).is_empty());
        assert_eq!(lines(&format!("\n{}", function(61, "g();"))), [2]);
    }

    #[test]
    fn braces_in_strings_and_comments_do_not_count() {
        assert_eq!(lines(&function(61, "g(\"}\"); // }")), [1]);
        assert_eq!(lines(&function(61, "g(r#\"}\"#, '}', b'{'); /* } */")), [1]);
    }

    #[test]
    fn declarations_and_function_types_have_no_length() {
        let text = format!("trait T {{ fn a(&self); }}\ntype F = fn(u8);\n{}", "\n".repeat(80));
        assert!(lines(&text).is_empty());
    }
}
