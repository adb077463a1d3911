//! Tests of the whole way from a text to a snapshot or its errors.

mod advice;
mod diff;
mod entries;
mod files;
mod guard;
mod reference;
mod robust;
mod shape;
mod snapshot;
mod syntax;
mod together;

use super::Loaded;
use super::host::Host;
use super::problem::{ConfigErrors, Problem};
use crate::hub::UpstreamRegistry;

/// Stands in a test's text where an error is expected. It is taken out before the text is parsed.
const MARK: char = '§';

const LISTEN: &str = "[[listen]]\nname = 'tls'\naddress = '[::]:443'\n";
const ROUTE: &str = "[[route]]\nname = 'web'\ndefault = true\nto = 'web'\n";
const UPSTREAM: &str = "[[upstream]]\nname = 'web'\nservers = '10.0.0.5:8443'\n";

/// The text without marks, and the line and column of each.
fn unmark(marked: &str) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut places, mut line, mut column) = (String::new(), Vec::new(), 1, 1);
    for c in marked.chars() {
        match c {
            MARK => {
                places.push((line, column));
                continue;
            }
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        text.push(c);
    }
    (text, places)
}

fn places(problems: &[Problem]) -> Vec<(usize, usize)> {
    problems.iter().map(|problem| (problem.line.unwrap(), problem.column.unwrap())).collect()
}

fn messages(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.message.as_str()).collect()
}

/// On a host of which nothing is known.
fn parse(text: &str, file: &str) -> Result<Loaded, ConfigErrors> {
    super::parse(text, file, &Host::default(), &UpstreamRegistry::default())
}

fn errors_of(text: &str) -> ConfigErrors {
    match parse(text, "test.toml") {
        Err(errors) => errors,
        Ok(_) => panic!("no error in:\n{text}"),
    }
}

/// There are exactly these errors, at the marks.
#[track_caller]
fn assert_errors(marked: &str, expected: &[&str]) {
    let (text, marks) = unmark(marked);
    let errors = errors_of(&text);
    assert_eq!(messages(&errors.problems), expected, "in:\n{text}");
    assert_eq!(places(&errors.problems), marks, "in:\n{text}");
}

/// There is exactly this error in one `[[listen]]`, with what else it takes to be complete.
#[track_caller]
fn assert_listen_error(keys: &str, expected: &str) {
    assert_errors(&format!("[[listen]]\n{keys}\n{ROUTE}{UPSTREAM}"), &[expected]);
}

/// There is exactly this error in one `[[route]]`. It goes to the upstream `web`.
#[track_caller]
fn assert_route_error(keys: &str, expected: &str) {
    assert_errors(&format!("{LISTEN}[[route]]\n{keys}\nto = 'web'\n{UPSTREAM}"), &[expected]);
}

/// There is exactly this error in one `[[upstream]]`, called `web`.
#[track_caller]
fn assert_upstream_error(keys: &str, expected: &str) {
    assert_errors(&format!("{LISTEN}{ROUTE}[[upstream]]\nname = 'web'\n{keys}\n"), &[expected]);
}

/// There is exactly this error in a section that is complete without it.
#[track_caller]
fn assert_section_error(section: &str, expected: &str) {
    assert_errors(&format!("{LISTEN}{ROUTE}{UPSTREAM}{section}\n"), &[expected]);
}
