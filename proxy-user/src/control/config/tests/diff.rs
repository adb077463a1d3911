//! Differences between two configurations, as a table.

use super::super::diff::diff;
use super::parse;

const BASE: &str = "
[[listen]]
name = 'tls'
address = '[::]:443'

[[route]]
name = 'polling'
sni = 'polling.**'
to = 'polling'

[[route]]
name = 'web'
default = true
to = 'web'

[[upstream]]
name = 'polling'
servers = ['10.0.0.5:10943', '10.0.0.6:10943']

[[upstream]]
name = 'web'
servers = '10.0.0.5:8443'

[guard]
interfaces = 'eth0'
";

/// Replacements in the base, and the changes that they are.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

/// The base with one replacement for each pair, compared with the base.
fn changes(edits: &[(&str, &str)]) -> Vec<String> {
    let mut text = BASE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let snapshot = |text: &str| match parse(text, "test.toml") {
        Ok(loaded) => loaded.snapshot,
        Err(errors) => panic!("{errors}"),
    };
    diff(&snapshot(BASE), &snapshot(&text)).iter().map(ToString::to_string).collect()
}

#[test]
fn each_edit_is_told_by_its_name() {
    let more = "[[listen]]\nname = 'more'\naddress = '[::]:444'\nto = 'web'\n\n[guard]";
    let table: &[Row<'_>] = &[
        (&[], &[]),
        (&[("443'", "443' # a remark")], &[]),
        (&[("'[::]:443'", "['[::]:443', '[::]:10943']")], &["listener \"tls\" changed"]),
        (&[("name = 'tls'", "name = 'edge'")], &["listener \"edge\" added", "listener \"tls\" removed"]),
        (&[("[guard]", more)], &["listener \"more\" added"]),
        (&[("polling.**", "agents.**")], &["route \"polling\" changed"]),
        (
            &[
                ("default = true\nto = 'web'", "default = true\nto = 'polling'"),
                ("sni = 'polling.**'\nto = 'polling'", "sni = 'polling.**'\nto = 'web'"),
            ],
            &["route \"polling\" changed", "route \"web\" changed"],
        ),
        (&[("10.0.0.5:8443", "10.0.0.9:8443")], &["upstream \"web\" changed"]),
        (
            &[("['10.0.0.5:10943', '10.0.0.6:10943']", "['10.0.0.6:10943', '10.0.0.5:10943']")],
            &["upstream \"polling\" changed"],
        ),
        (&[("[guard]\ninterfaces = 'eth0'", "")], &["[guard] removed"]),
        (&[("'eth0'", "'eth1'")], &["[guard] changed"]),
        (
            &[(
                "[guard]",
                "[timeouts]\nhello = '3s'\n[limits]\nsource_connections = 7\n[packet]\nafter = '9s'\n[admin]\nhttp = ''\n[guard]",
            )],
            &["[timeouts] changed", "[limits] changed", "[packet] changed", "[admin] changed"],
        ),
    ];
    for (edits, expected) in table {
        assert_eq!(changes(edits), *expected, "{edits:?}");
    }
}

#[test]
fn the_order_of_the_file_is_no_difference() {
    let (listen, rest) = BASE.split_once("[[route]]").unwrap();
    let (routes, rest) = rest.split_once("[[upstream]]").unwrap();
    let turned = format!("[[upstream]]{rest}\n[[route]]{routes}{listen}");
    let parsed = [BASE, &turned].map(|text| parse(text, "test.toml").unwrap().snapshot);
    assert_eq!(diff(&parsed[0], &parsed[1]), []);
}
