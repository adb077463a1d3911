//! Markdown pages: their prose, and the width of its lines.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::super::Finding;
use super::prose::{Kind, Passage, code};

/// Columns of a line of prose.
const WIDTH: usize = 100;

/// The paragraphs, list items, headings and table cells of a page.
pub(super) fn passages(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut open: Option<Passage> = None;
    let mut in_code = false;
    for (event, range) in parser(text) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_code = true,
            Event::End(TagEnd::CodeBlock) => in_code = false,
            _ if in_code => {}
            Event::Start(tag) => {
                if let Some(kind) = block(&tag) {
                    close(&mut open, &mut found);
                    open = Some(Passage { line: line_of(text, range.start), kind, text: String::new() });
                }
            }
            Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::TableCell | TagEnd::Item) => {
                close(&mut open, &mut found);
            }
            Event::Text(words) => add(&mut open, &words),
            Event::Code(words) => add(&mut open, &code(&words)),
            Event::SoftBreak | Event::HardBreak => add(&mut open, " "),
            _ => {}
        }
    }
    close(&mut open, &mut found);
    found
}

/// Lines of prose that are too wide. What cannot be wrapped is not counted: tables, code, headings, targets of links.
pub(super) fn long_lines(path: &str, text: &str) -> Vec<Finding> {
    let fixed = fixed_lines(text);
    let wide = |line: &str| wrapped_width(line) > WIDTH;
    (1..)
        .zip(text.lines())
        .filter(|(number, line)| wide(line) && !fixed.iter().any(|lines| lines.contains(number)))
        .map(|(number, line)| {
            let what = format!("{} columns: wrap prose at {WIDTH}", line.chars().count());
            Finding::new(path, number, what).of("wrapping")
        })
        .collect()
}

/// The lines of tables, code blocks, headings and HTML.
fn fixed_lines(text: &str) -> Vec<Range<usize>> {
    parser(text)
        .filter_map(|(event, range)| match event {
            Event::Start(Tag::CodeBlock(_) | Tag::Table(_) | Tag::Heading { .. } | Tag::HtmlBlock) => {
                Some(line_of(text, range.start)..line_of(text, range.end.saturating_sub(1)) + 1)
            }
            _ => None,
        })
        .collect()
}

/// The width of a line without the targets of its links. A single word that is wider is not to be wrapped.
fn wrapped_width(line: &str) -> usize {
    let mut shown = String::new();
    let mut rest = line;
    while let Some((before, target)) = rest.split_once("](") {
        shown += before;
        rest = target.split_once(')').map_or("", |(_, after)| after);
    }
    shown += rest;
    if shown.trim_start().starts_with("http") || !shown.trim().contains(' ') {
        return 0;
    }
    shown.chars().count()
}

fn parser(text: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter()
}

fn block(tag: &Tag<'_>) -> Option<Kind> {
    match tag {
        Tag::Paragraph | Tag::Item => Some(Kind::Paragraph),
        Tag::Heading { .. } => Some(Kind::Heading),
        Tag::TableCell => Some(Kind::Cell),
        _ => None,
    }
}

fn add(open: &mut Option<Passage>, words: &str) {
    if let Some(passage) = open {
        passage.text += words;
    }
}

fn close(open: &mut Option<Passage>, found: &mut Vec<Passage>) {
    found.extend(open.take().filter(|passage| !passage.text.trim().is_empty()));
}

pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_found_and_code_is_not() {
        let text = "# Head\n\nOne `a b` line\nand [a link](http://x/y).\n\n```sh\ncargo run\n```\n\n- item\n  goes on\n\n\
                    | a | b |\n|---|---|\n| `c` | d |\n";
        let found: Vec<_> =
            passages(text).into_iter().map(|passage| (passage.line, passage.kind, passage.text)).collect();
        let expected = [
            (1, Kind::Heading, "Head"),
            (3, Kind::Paragraph, "One `a_b` line and a link."),
            (10, Kind::Paragraph, "item goes on"),
            (13, Kind::Cell, "a"),
            (13, Kind::Cell, "b"),
            (15, Kind::Cell, "`c`"),
            (15, Kind::Cell, "d"),
        ];
        assert_eq!(found, expected.map(|(line, kind, text)| (line, kind, text.to_owned())));
    }

    fn wide(text: &str) -> Vec<usize> {
        long_lines("a.md", text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn long_lines_of_prose_are_found() {
        let line = "word ".repeat(21);
        assert_eq!(wide(&format!("{line}\n\n- {line}\n")), [1, 3]);
        assert!(wide(&format!("{}\n", &line[..100])).is_empty());
    }

    #[test]
    fn what_cannot_be_wrapped_may_be_long() {
        let line = "word ".repeat(21);
        let target = "x".repeat(80);
        for text in [
            format!("# {line}\n"),
            format!("```\n{line}\n```\n"),
            format!("| a |\n|---|\n| {line} |\n"),
            format!("See [the page](https://example.org/{target}) for more.\n"),
            format!("https://example.org/{target}{target}\n"),
        ] {
            assert!(wide(&text).is_empty(), "{text}");
        }
    }
}
