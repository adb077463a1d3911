//! What the daemon and `cargo xtask` say to their users: string literals, and doc comments that are help.

use proc_macro2::Delimiter;

use super::super::source::{Kind as Token, Source};
use super::markdown;
use super::prose::{Kind, Passage, code};

/// Sources whose messages users see.
const SHOWN: [&str; 4] =
    ["proxy-user/src/", "proxy-common/src/", "xtask/src/", "tests/src/bin/snisplice-demo/"];

/// Attributes whose strings only a compiler reads. Doc comments are read where they are help.
const UNSEEN: [&str; 6] = ["doc", "cfg", "cfg_attr", "expect", "allow", "deny"];

/// Derives that make help of doc comments.
const HELP: [&str; 4] = ["Parser", "Subcommand", "Args", "ValueEnum"];

/// True for sources whose messages users see; the list of phrases itself has to name them.
pub(super) fn is_shown_to_users(path: &str) -> bool {
    let test = path.contains("/tests/") || path.ends_with("tests.rs") || path.ends_with("/phrases.rs");
    SHOWN.iter().any(|folder| path.starts_with(folder)) && !test
}

/// The messages and the help of a file.
pub(super) fn passages(source: &Source<'_>) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.tokens.len() {
        if let Some(end) = attribute_end(source, at) {
            let end = attributes(source, at, end, &mut found);
            at = end;
            continue;
        }
        found.extend(message(source, at));
        at += 1;
    }
    found.extend(help(source));
    found
}

/// Takes the messages of an attribute, and skips one that no user sees. What comes next is at the returned index.
fn attributes(source: &Source<'_>, at: usize, end: usize, found: &mut Vec<Passage>) -> usize {
    let name = (at..end).find_map(|at| source.ident(at)).unwrap_or_default();
    if name == "cfg" && (at..end).any(|at| source.ident(at) == Some("test")) {
        return item_end(source, end);
    }
    if !UNSEEN.contains(&name) {
        found.extend((at..end).filter_map(|at| message(source, at)));
    }
    end
}

/// The index behind an attribute that begins at `at`.
fn attribute_end(source: &Source<'_>, at: usize) -> Option<usize> {
    let inner = usize::from(source.kind(at + 1) == Some(&Token::Punct('!')));
    let open = at + 1 + inner;
    let begins = source.kind(at) == Some(&Token::Punct('#'))
        && source.kind(open) == Some(&Token::Open(Delimiter::Bracket));
    if begins { source.close_of(open).map(|close| close + 1) } else { None }
}

/// The index behind the item whose attributes end before `at`.
fn item_end(source: &Source<'_>, mut at: usize) -> usize {
    loop {
        match source.kind(at) {
            None => return at,
            Some(Token::Punct(';')) => return at + 1,
            Some(Token::Open(Delimiter::Brace)) => return source.close_of(at).unwrap_or(at) + 1,
            Some(Token::Open(_)) => at = source.close_of(at).unwrap_or(at) + 1,
            Some(_) => at += 1,
        }
    }
}

/// A string literal of three words or more.
fn message(source: &Source<'_>, at: usize) -> Option<Passage> {
    let token = source.tokens.get(at)?;
    let Token::Text(text) = &token.kind else { return None };
    (text.split_whitespace().count() > 2).then(|| Passage {
        line: token.line,
        kind: Kind::Paragraph,
        text: without_code(text),
    })
}

/// A message with each placeholder, and each piece of code in backticks, as one word.
fn without_code(text: &str) -> String {
    let mut parts = text.split('`');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for (number, part) in parts.enumerate() {
        plain += &if number % 2 == 0 { code(part) } else { part.to_owned() };
    }
    plain
}

/// The doc comments that clap makes help of.
fn help(source: &Source<'_>) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.tokens.len() {
        let Some(mut end) = attribute_end(source, at) else {
            at += 1;
            continue;
        };
        while let Some(next) = attribute_end(source, end) {
            end = next;
        }
        if is_help(source, at, end) {
            end = item_end(source, end);
            docs(source, at, end, &mut found);
        }
        at = end;
    }
    found
}

/// True when one of the attributes from `at` to `end` derives help.
fn is_help(source: &Source<'_>, at: usize, end: usize) -> bool {
    let derive = (at..end).find(|&at| source.ident(at) == Some("derive"));
    derive.is_some_and(|at| (at..end).any(|at| source.ident(at).is_some_and(|name| HELP.contains(&name))))
}

/// Doc comments from `at` to `end`: lines that follow each other are one text.
fn docs(source: &Source<'_>, at: usize, end: usize, found: &mut Vec<Passage>) {
    let mut text = String::new();
    let mut first = 0;
    let mut last = 0;
    for at in at..end {
        let Some((line, words)) = doc(source, at) else { continue };
        if text.is_empty() || line != last + 1 {
            flush(&text, first, found);
            text.clear();
            first = line;
        }
        text += words;
        text.push('\n');
        last = line;
    }
    flush(&text, first, found);
}

fn doc<'a>(source: &'a Source<'_>, at: usize) -> Option<(usize, &'a str)> {
    let token = source.tokens.get(at)?;
    let is_doc =
        at > 1 && source.ident(at - 2) == Some("doc") && source.kind(at - 1) == Some(&Token::Punct('='));
    match &token.kind {
        Token::Text(words) if is_doc => Some((token.line, words.strip_prefix(' ').unwrap_or(words))),
        _ => None,
    }
}

fn flush(text: &str, first: usize, found: &mut Vec<Passage>) {
    found.extend(
        markdown::passages(text)
            .into_iter()
            .map(|passage| Passage { line: first + passage.line - 1, ..passage }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        let source = Source::parse("proxy-user/src/a.rs", text).unwrap();
        passages(&source).into_iter().map(|passage| (passage.line, passage.text)).collect()
    }

    fn only(line: usize, text: &str) -> Vec<(usize, String)> {
        vec![(line, text.to_owned())]
    }

    #[test]
    fn messages_are_found_wherever_they_are_written() {
        assert_eq!(texts("\nfn f() { warn!(x, \"a b\\\n     c {d}\"); }"), only(2, "a bc {d}"));
        assert_eq!(texts("fn f() { g().context(r\"a `b c` d\")?; }"), only(1, "a `b_c` d"));
        assert_eq!(texts("#[error(\"one two three\")] struct A;"), only(1, "one two three"));
        assert_eq!(texts("#[command(about = \"one two three\")] struct A;"), only(1, "one two three"));
        assert_eq!(texts("const A: &str = \"one two three\";"), only(1, "one two three"));
    }

    #[test]
    fn what_no_user_sees_is_no_message() {
        assert!(
            texts("//! one two three\n/// one two three\nfn f() { g(\"one two\"); /* one two three */ }")
                .is_empty()
        );
        assert!(texts("#[cfg(test)]\nmod tests { fn f() { panic!(\"one two three\"); } }").is_empty());
        assert!(texts("#[expect(dead_code, reason = \"one two three\")] fn f() {}").is_empty());
    }

    #[test]
    fn doc_comments_are_help_in_what_clap_reads() {
        let text = "/// One two.\n///\n/// Three\n/// four.\n#[derive(Debug, Parser)]\nstruct A {\n    /// Five\n    a: u8,\n}\n/// six\nstruct B;";
        let expected = [(1, "One two."), (3, "Three four."), (7, "Five")];
        assert_eq!(texts(text), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn tests_are_not_shown() {
        assert!(is_shown_to_users("xtask/src/lint.rs"));
        for path in
            ["tests/src/a.rs", "proxy-user/src/control/config/tests/a.rs", "proxy-user/src/sys/tests.rs"]
        {
            assert!(!is_shown_to_users(path), "{path}");
        }
    }
}
