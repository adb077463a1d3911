//! Links in Markdown pages lead to files and headings of this repository that exist.

use std::fs;
use std::path::Path;

use pulldown_cmark::{Event, Parser, Tag};

use super::super::Finding;
use super::markdown::{line_of, passages};
use super::prose::Kind;

/// Finds links of a page that lead nowhere.
pub(in super::super) fn check(tree: &Path, path: &str, text: &str) -> Vec<Finding> {
    let folder = tree.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let links = Parser::new(text).into_offset_iter().filter_map(|(event, range)| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some((dest_url, range)),
        _ => None,
    });
    links
        .filter(|(url, _)| !url.contains("://"))
        .filter_map(|(url, range)| {
            let (file, heading) = url.split_once('#').unwrap_or((&url, ""));
            let target = folder.join(file);
            let what = match heading {
                _ if !file.is_empty() && !target.exists() => format!("{url} leads to no file"),
                "" => return None,
                heading => {
                    let page = if file.is_empty() {
                        Some(text.to_owned())
                    } else {
                        fs::read_to_string(&target).ok()
                    };
                    let has = page.is_some_and(|page| anchors(&page).iter().any(|anchor| anchor == heading));
                    if has {
                        return None;
                    }
                    format!("{url} leads to no heading")
                }
            };
            Some(Finding::new(path, line_of(text, range.start), what).of("links"))
        })
        .collect()
}

/// The names of a page's headings in links.
fn anchors(page: &str) -> Vec<String> {
    let headings = passages(page).into_iter().filter(|passage| passage.kind == Kind::Heading);
    headings.map(|heading| anchor(&heading.text)).collect()
}

/// A heading as links name it: lower case, hyphens between words, no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        check(here, "page.md", text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        assert_eq!(lines("[a](src/main.rs)\n\n[b](src/nothing.rs)\n\n![c](none.svg)\n"), [3, 5]);
        assert_eq!(lines("# The head, of it\n\n[a](#the-head-of-it)\n[b](#other)\n"), [4]);
    }

    #[test]
    fn links_to_other_places_are_not_followed() {
        assert!(lines("[a](https://example.org/none) and `[b](none)`\n").is_empty());
    }
}
