//! The order of the table by example.

use std::net::IpAddr;

use proxy_common::hello::HostName;
use proxy_common::route::{Pattern, Route, Table, Why};

/// A route with these patterns and sources.
fn route(name: &str, sni: &[&str], source: &[&str]) -> Route<()> {
    Route {
        name: name.into(),
        sni: sni.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect(),
        source: source.iter().map(|net| net.parse().unwrap()).collect(),
        to: (),
        default: false,
    }
}

fn default(name: &str) -> Route<()> {
    Route { default: true, ..route(name, &[], &[]) }
}

fn found<'a>(table: &'a Table<()>, name: &str, source: &str) -> (&'a str, String) {
    let name = (!name.is_empty()).then(|| HostName::parse(name).unwrap());
    let source: IpAddr = source.parse().unwrap();
    match table.find(name.as_ref(), source) {
        Some(found) => (&found.route.name, found.why.to_string()),
        None => ("none", String::new()),
    }
}

fn taker<'a>(table: &'a Table<()>, name: &str, source: &str) -> &'a str {
    found(table, name, source).0
}

/// Asserts which route takes `name`, whatever the order of the routes.
fn takes_in_any_order(routes: &[Route<()>], name: &str, source: &str, expected: &str) {
    let forward = Table::build(routes.to_vec());
    let backward = Table::build(routes.iter().rev().cloned().collect());
    assert_eq!(taker(&forward, name, source), expected, "{name} from {source}");
    assert_eq!(taker(&backward, name, source), expected, "{name} from {source}, reversed");
}

#[test]
fn the_shipped_default_sends_polling_names_away() {
    let table = Table::build(vec![route("polling", &["polling.**"], &[]), default("web")]);
    assert_eq!(
        found(&table, "polling.example.com", "192.0.2.1"),
        ("polling", "matches pattern polling.**".into())
    );
    assert_eq!(found(&table, "octopus.example.com", "192.0.2.1"), ("web", "matches no other route".into()));
    assert_eq!(taker(&table, "polling", "192.0.2.1"), "web");
    assert_eq!(taker(&table, "", "192.0.2.1"), "web");
    assert_eq!(table.routes().len(), 2);
}

#[test]
fn the_most_specific_pattern_wins_whatever_the_order() {
    let routes = [
        route("any", &["**"], &[]),
        route("one", &["*"], &[]),
        route("deep", &["**.example.com"], &[]),
        route("flat", &["*.example.com"], &[]),
        route("longer", &["**.b.example.com"], &[]),
        route("exact", &["a.b.example.com"], &[]),
        default("rest"),
    ];
    for (name, expected) in [
        ("a.b.example.com", "exact"),
        ("x.b.example.com", "longer"),
        ("b.example.com", "flat"),
        ("x.y.example.com", "deep"),
        ("localhost", "one"),
        ("example.com", "any"),
        ("", "rest"),
    ] {
        takes_in_any_order(&routes, name, "192.0.2.1", expected);
    }
}

#[test]
fn equally_specific_patterns_go_by_the_order_in_the_file() {
    let routes = vec![route("first", &["a.*"], &[]), route("second", &["*.b"], &[])];
    assert_eq!(taker(&Table::build(routes.clone()), "a.b", "192.0.2.1"), "first");
    assert_eq!(taker(&Table::build(routes.into_iter().rev().collect()), "a.b", "192.0.2.1"), "second");
}

#[test]
fn a_route_with_source_goes_before_the_same_without() {
    for pattern in ["a.example", "*.example"] {
        let routes = [
            route("all", &[pattern], &[]),
            route("wide", &[pattern], &["10.0.0.0/8", "2001:db8::/32"]),
            route("narrow", &[pattern], &["10.1.0.0/16"]),
        ];
        takes_in_any_order(&routes, "a.example", "10.1.2.3", "narrow");
        takes_in_any_order(&routes, "a.example", "10.2.2.3", "wide");
        takes_in_any_order(&routes, "a.example", "2001:db8::1", "wide");
        takes_in_any_order(&routes, "a.example", "192.0.2.1", "all");
    }
    let routes = [route("exact", &["a.example"], &[]), route("bound", &["*.example"], &["10.0.0.0/8"])];
    takes_in_any_order(&routes, "a.example", "10.0.0.1", "exact");
}

#[test]
fn a_bound_route_does_not_hide_the_next_pattern() {
    let routes = [route("bound", &["a.example"], &["10.0.0.0/8"]), route("wild", &["*.example"], &[])];
    takes_in_any_order(&routes, "a.example", "192.0.2.1", "wild");
}

#[test]
fn source_alone_comes_after_names_and_before_the_default() {
    let routes = [
        default("rest"),
        route("site", &[], &["10.0.0.0/8"]),
        route("rack", &[], &["10.1.0.0/16"]),
        route("named", &["**.example"], &[]),
    ];
    takes_in_any_order(&routes, "a.example", "10.1.2.3", "named");
    takes_in_any_order(&routes, "a.other", "10.1.2.3", "rack");
    takes_in_any_order(&routes, "", "10.2.2.3", "site");
    takes_in_any_order(&routes, "", "192.0.2.1", "rest");
}

#[test]
fn a_mapped_address_counts_as_ipv4() {
    let routes = [route("v4", &[], &["10.0.0.0/8"]), route("v6", &[], &["::/0"])];
    takes_in_any_order(&routes, "", "::ffff:10.1.2.3", "v4");
    takes_in_any_order(&routes, "", "::ffff:192.0.2.1", "none");
    takes_in_any_order(&routes, "", "2001:db8::1", "v6");
    takes_in_any_order(&[route("mapped", &[], &["::ffff:10.0.0.0/104"])], "", "10.1.2.3", "mapped");
}

#[test]
fn nothing_matches_without_a_default() {
    let table = Table::build(vec![route("named", &["a.example"], &[]), route("empty", &[], &[])]);
    assert_eq!(taker(&table, "b.example", "192.0.2.1"), "none");
    assert_eq!(taker(&table, "", "192.0.2.1"), "none");
    assert_eq!(taker(&Table::build(vec![]), "a.example", "192.0.2.1"), "none");
}

#[test]
fn a_default_may_have_names_and_sources() {
    let both = Route { default: true, ..route("both", &["a.example"], &["10.0.0.0/8"]) };
    let routes = [both, route("other", &[], &["10.1.0.0/16"])];
    takes_in_any_order(&routes, "a.example", "10.1.2.3", "both");
    takes_in_any_order(&routes, "b.example", "10.1.2.3", "other");
    takes_in_any_order(&routes, "b.example", "10.2.2.3", "both");
    takes_in_any_order(&routes, "b.example", "192.0.2.1", "none");
}

#[test]
fn the_reason_ends_a_sentence() {
    let table = Table::build(vec![
        route("exact", &["a.example"], &["10.0.0.5/8"]),
        route("wild", &["*.example"], &["10.0.0.0/8"]),
        route("site", &[], &["10.0.0.0/8"]),
    ]);
    assert_eq!(found(&table, "A.example.", "10.1.1.1").1, "asks for a.example for clients in 10.0.0.0/8");
    assert_eq!(
        found(&table, "b.example", "10.1.1.1").1,
        "matches pattern *.example for clients in 10.0.0.0/8"
    );
    assert_eq!(found(&table, "", "10.1.1.1").1, "comes from 10.0.0.0/8");
    let site = table.find(None, "10.1.1.1".parse().unwrap()).unwrap();
    assert_eq!(site.why, Why::Source("10.0.0.0/8".parse().unwrap()));
}

fn conflicts(routes: &[Route<()>]) -> Vec<(usize, usize, String)> {
    let conflicts = Table::conflicts(routes).into_iter();
    conflicts.map(|conflict| (conflict.first, conflict.second, conflict.overlap.to_string())).collect()
}

#[test]
fn routes_that_ask_for_the_same_are_named() {
    assert_eq!(
        conflicts(&[
            route("a", &["a.b", "*.c"], &[]),
            route("b", &["x.y", "*.C."], &[]),
            route("c", &["A.b"], &[])
        ]),
        [(0, 1, "*.c".into()), (0, 2, "a.b".into())]
    );
    assert_eq!(
        conflicts(&[
            route("a", &["a.b"], &["10.1.2.3/8"]),
            route("b", &["a.b"], &["10.0.0.0/8", "192.0.2.0/24"])
        ]),
        [(0, 1, "a.b for clients in 10.0.0.0/8".into())]
    );
    assert_eq!(
        conflicts(&[
            route("a", &[], &["10.0.0.0/8"]),
            default("b"),
            route("c", &[], &["::ffff:10.0.0.0/104"]),
            default("d")
        ]),
        [(0, 2, "any name from 10.0.0.0/8".into()), (1, 3, "what no other route takes".into())]
    );
}

#[test]
fn routes_that_can_be_told_apart_are_no_conflict() {
    let routes = [
        route("a", &["a.b", "a.b"], &[]),
        route("b", &["a.b"], &["10.0.0.0/8", "10.0.0.0/8"]),
        route("c", &["a.b"], &["10.0.0.0/9"]),
        route("d", &[], &["10.0.0.0/8"]),
        route("e", &["*.b"], &[]),
        default("f"),
    ];
    assert_eq!(conflicts(&routes), []);
}
