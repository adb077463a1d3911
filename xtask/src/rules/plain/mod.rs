//! What a program can check of plain words: length of sentences, phrases, wrapping, names.

pub(super) mod links;
pub(super) mod markdown;
pub(super) mod messages;
pub(super) mod phrases;
pub(super) mod prose;
pub(super) mod vocabulary;

use self::prose::{Kind, Passage};
use super::Finding;
use super::source::Source;

/// Checks one Markdown page.
pub(super) fn page(path: &str, text: &str) -> Vec<Finding> {
    let mut found = passages(path, &markdown::passages(text));
    found.extend(markdown::long_lines(path, text));
    found
}

/// Checks the messages and the help of one Rust file.
pub(super) fn messages(source: &Source<'_>) -> Vec<Finding> {
    if !messages::is_shown_to_users(source.path) {
        return Vec::new();
    }
    passages(source.path, &messages::passages(source))
}

fn passages(path: &str, passages: &[Passage]) -> Vec<Finding> {
    passages.iter().flat_map(|passage| check(path, passage)).collect()
}

fn check(path: &str, passage: &Passage) -> Vec<Finding> {
    let mut found = Vec::new();
    let sentences = prose::sentences(&passage.text);
    for sentence in &sentences {
        let words = prose::count(sentence);
        if words > prose::LIMIT {
            let what =
                format!("a sentence of {words} words, {} is the limit: {}", prose::LIMIT, start(sentence));
            found.push(Finding::new(path, passage.line, what).of("sentences"));
        }
    }
    if passage.kind == Kind::Cell && sentences.len() > 1 {
        let what = format!(
            "a table cell has {} sentences, 1 is the limit: {}",
            sentences.len(),
            start(&passage.text)
        );
        found.push(Finding::new(path, passage.line, what).of("table cells"));
    }
    for (phrase, instead) in phrases::in_text(&passage.text) {
        let what = format!("\"{phrase}\" is not plain: {instead}: {}", start(&passage.text));
        found.push(Finding::new(path, passage.line, what).of("phrases"));
    }
    found
}

/// The first words, by which a reader finds the place.
fn start(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let first = words.get(..8).unwrap_or(&words);
    format!("{}{}", first.join(" "), if words.len() > 8 { " ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(found: &[Finding]) -> Vec<&'static str> {
        found.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_page_is_checked_by_every_rule() {
        let long = "word ".repeat(31);
        let page =
            format!("{}.\n\n| a |\n|---|\n| One. Two. |\n\nThe servers of which one is up.\n", long.trim());
        assert_eq!(rules(&super::page("a.md", &page)), ["sentences", "table cells", "phrases", "wrapping"]);
    }

    #[test]
    fn messages_are_checked_for_length_and_phrases() {
        let long = "word ".repeat(31);
        let text =
            format!("fn f() {{ warn!(\"{}\"); bail!(\"flows that left their sockets\"); }}", long.trim());
        let source = Source::parse("proxy-user/src/a.rs", &text).unwrap();
        assert_eq!(rules(&messages(&source)), ["sentences", "phrases"]);
        assert!(messages(&Source::parse("tests/tests/a.rs", &text).unwrap()).is_empty());
    }

    #[test]
    fn plain_text_passes() {
        let page = "# Title\n\nThe daemon copies bytes. It closes both sockets.\n\n| key | meaning |\n|---|---|\n| a | One. |\n";
        assert_eq!(super::page("a.md", page), []);
    }
}
