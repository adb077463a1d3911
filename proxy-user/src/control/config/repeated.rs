//! What is there twice, so that the parser refuses it: sections and keys, with the place of the first.

use super::keys;
use super::report::Fault;
use super::source::Text;
use super::syntax::Mistake;

/// The mistake at byte `at`, if it is that something is there twice.
pub(super) fn explain(text: &Text<'_>, at: usize, message: &str) -> Option<Mistake> {
    if message != "duplicate key" {
        return None;
    }
    let whole = text.as_str();
    let start = whole.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = whole.get(start..)?.lines().next()?;
    let before = whole.get(..start)?;
    if let Some(name) = section_name(line) {
        let (first, _) = lines(before).find(|(_, line)| section_name(line) == Some(name))?;
        let way_out = match keys::SECTIONS.iter().find(|section| section.name == name) {
            Some(section) if section.repeated => format!("use {section} for each of them"),
            _ => format!("put all keys of [{name}] into one"),
        };
        return Some((at, Fault::new(format!("'{name}' is already at {}", text.place(first)), way_out)));
    }
    let key = key_name(line)?;
    let mut section = "";
    let mut first = None;
    for (at, line) in lines(before) {
        if line.starts_with('[') && section_name(line).is_some() {
            (section, first) = (line, None);
        } else if first.is_none() && key_name(line) == Some(key) {
            first = Some(at);
        }
    }
    let what = format!("'{key}' is already at {}", text.place(first?));
    let name = section_name(section).unwrap_or_default();
    let way_out = match keys::SECTIONS.iter().find(|section| section.name == name && section.repeated) {
        Some(section) => format!("remove one of the two, or begin another {section} before this one"),
        None => "remove one of the two".to_owned(),
    };
    Some((at, Fault::new(what, way_out)))
}

/// The lines without what is left of their first character, each with the byte offset of that.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = next;
        next += line.len();
        let trimmed = line.trim_start_matches(['\u{feff}', ' ', '\t']);
        (start + line.len() - trimmed.len(), trimmed.trim_end())
    })
}

/// `name` of `[name]` or `[[name]]`.
fn section_name(line: &str) -> Option<&str> {
    let inner = line.trim_start_matches(['\u{feff}', ' ', '\t']).strip_prefix('[')?;
    let name = inner.strip_prefix('[').unwrap_or(inner).split(']').next()?.trim();
    is_bare(name).then_some(name)
}

/// `key` of `key = value`.
fn key_name(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    is_bare(key).then_some(key)
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}
