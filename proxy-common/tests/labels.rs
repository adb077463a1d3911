//! The docs explain every label of the closed sets and every known kernel, and no others.

use std::collections::BTreeSet;

use proxy_common::kernels::{GOOD, good_kernels, offloading_kernels};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The labels that a function named `label` in a source gives, by type.
fn labels<'a>(source: &'a str, of: &str) -> BTreeSet<&'a str> {
    let (_, rest) = source.split_once(&format!("impl {of} {{")).unwrap_or_default();
    let (_, rest) = rest.split_once("fn label(self)").unwrap_or_default();
    let (body, _) = rest.split_once("\n    }\n").unwrap_or_default();
    body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).collect()
}

/// The words in code type in the first cells of the table whose head begins with `head`.
fn documented(head: &str) -> BTreeSet<&'static str> {
    let (_, rest) = OPERATIONS.split_once(&format!("| {head} |")).unwrap_or_default();
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_close_reason_is_documented() {
    let labels = labels(include_str!("../src/flow/reason.rs"), "Reason");
    assert!(labels.len() > 15, "{labels:?}");
    assert_eq!(documented("reason"), labels);
}

#[test]
fn every_reason_for_a_fallback_is_documented() {
    let mut all = labels(include_str!("../src/plan.rs"), "Fallback");
    let obstacles = labels(include_str!("../src/packet/eligible.rs"), "Obstacle");
    assert!(all.len() > 3 && obstacles.len() > 3, "{all:?} {obstacles:?}");
    all.extend(obstacles);
    assert_eq!(documented("fallback"), all);
}

#[test]
fn every_failure_to_connect_is_documented() {
    let labels = labels(include_str!("../src/flow/reason.rs"), "ConnectFailure");
    assert!(labels.len() > 3, "{labels:?}");
    let row = OPERATIONS.lines().find(|line| line.contains("snisplice_upstream_connect_failures_total"));
    let text = row.and_then(|row| row.split("failed attempts:").nth(1)).expect("the row is there");
    assert_eq!(text.split('`').skip(1).step_by(2).collect::<BTreeSet<_>>(), labels);
}

/// docs/kernel.md, and the README in words.
#[test]
fn the_kernels_that_auto_splices_on_are_documented() {
    let policy = include_str!("../../docs/kernel.md");
    let (_, rest) = policy.split_once("| series | `auto` splices").expect("the table is there");
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(2)).map(str::trim);
    let documented: Vec<_> = cells.filter(|cell| *cell != "no").collect();
    let known: Vec<_> = GOOD.iter().map(ToString::to_string).collect();
    assert_eq!(documented, known);
    let readme = include_str!("../../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(readme.contains(&good_kernels()), "{}", good_kernels());
    assert!(policy.contains(&format!("| others from {} |", offloading_kernels())), "{policy}");
}
