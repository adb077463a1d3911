//! The reference in docs/config.md names the keys that the code reads, and no others.

use std::collections::BTreeSet;

use super::super::keys::SECTIONS;
use super::parse;

const REFERENCE: &str = include_str!("../../../../../docs/config.md");

/// Section and key of every row whose first cell is a key, with the cell of the default.
fn documented() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches('`').to_owned();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, key, _, default, ..] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
        {
            rows.push((section.clone(), key.to_owned(), default.trim_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn the_reference_and_the_code_have_the_same_keys() {
    let code: BTreeSet<_> = SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| (section.to_string(), key.name.to_owned())))
        .collect();
    let rows = documented();
    let reference: BTreeSet<_> =
        rows.iter().map(|(section, key, _)| (section.clone(), key.clone())).collect();
    assert_eq!(reference, code);
    assert_eq!(rows.len(), reference.len(), "a key is there twice");
}

/// A file that writes out every documented default means the same as one that leaves them out.
#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let (mut upstream, mut rest) = (String::new(), String::new());
    for (section, key, default) in documented() {
        match section.as_str() {
            "[[upstream]]" if default != "required" => upstream += &format!("{key} = {default}\n"),
            "[admin]" | "[timeouts]" | "[packet]" if default != "none" => {
                if !rest.contains(&section) {
                    rest += &format!("{section}\n");
                }
                rest += &format!("{key} = {default}\n");
            }
            _ => {}
        }
    }
    let bare = format!("{}{}{}", super::LISTEN, super::ROUTE, super::UPSTREAM);
    let full = format!("{bare}{upstream}{rest}");
    assert_eq!(full.lines().count(), bare.lines().count() + 21);
    let snapshot = |text: &str| match parse(text, "test.toml") {
        Ok(loaded) => format!("{:?}", loaded.snapshot),
        Err(errors) => panic!("{errors}\nin:\n{text}"),
    };
    // That the section is there says something by itself.
    assert_eq!(snapshot(&full), snapshot(&format!("{bare}[packet]\n")));
}

/// The example of every section, put together, is a valid file.
#[test]
fn the_examples_of_the_reference_are_valid() {
    let examples: String =
        REFERENCE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let text = format!("{examples}[[upstream]]\nname = \"octopus-web\"\nservers = \"10.0.0.5:8443\"\n");
    match parse(&text, "examples") {
        Ok(loaded) => assert_eq!(loaded.warnings, []),
        Err(errors) => panic!("{errors}"),
    }
}

/// The value that an error message shows for a key is one that the key takes.
#[test]
fn the_examples_in_messages_have_the_right_form() {
    for section in SECTIONS {
        for key in section.keys {
            let value: toml::Table = format!("{} = {}", key.name, key.example).parse().unwrap();
            assert_eq!(value.len(), 1);
        }
    }
}
