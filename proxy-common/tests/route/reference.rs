//! A matcher and a ranking that are too simple to be wrong, to compare with.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proxy_common::hello::HostName;
use proxy_common::route::{Pattern, Route, Table};

/// Tries every way to give labels to wildcards.
fn matches(pattern: &[&str], labels: &[&str]) -> bool {
    match (pattern, labels) {
        ([], []) => true,
        (["**", parts @ ..], [_, rest @ ..]) => matches(parts, rest) || matches(pattern, rest),
        ([part, parts @ ..], [label, rest @ ..]) => {
            (*part == "*" || part.eq_ignore_ascii_case(label)) && matches(parts, rest)
        }
        _ => false,
    }
}

fn split(text: &str) -> Vec<&str> {
    text.trim_end_matches('.').split('.').collect()
}

/// How good a route's claim to a connection is; the least one wins.
type Rank = (u8, i32, bool, i32, usize);

/// Every claim of one route to a connection.
fn claims(index: usize, spec: &Spec, name: Option<&str>, source: IpAddr) -> Vec<Rank> {
    let prefixes: Vec<i32> = if spec.source.is_empty() {
        vec![-1]
    } else {
        let inside = spec.source.iter().filter(|net| net.contains(&source));
        inside.map(|net| i32::from(net.prefix_len())).collect()
    };
    let mut ranks = Vec::new();
    for prefix in prefixes {
        for pattern in
            name.iter().flat_map(|name| spec.sni.iter().filter(|p| matches(&split(p), &split(name))))
        {
            let stars = split(pattern).iter().filter(|part| part.contains('*')).count();
            let literal = i32::try_from(split(pattern).len() - stars).unwrap();
            let step = u8::from(stars > 0);
            let literal = if stars > 0 { -literal } else { 0 };
            ranks.push((step, literal, pattern.contains("**"), -prefix, index));
        }
        if spec.sni.is_empty() && !spec.source.is_empty() && !spec.default {
            ranks.push((2, 0, false, -prefix, index));
        }
        if spec.default {
            ranks.push((3, 0, false, -prefix, index));
        }
    }
    ranks
}

/// A route as a file would have it.
#[derive(Debug, Clone)]
struct Spec {
    sni: Vec<String>,
    source: Vec<IpNet>,
    default: bool,
}

impl Spec {
    fn compile(&self, index: usize) -> Route<usize> {
        Route {
            name: index.to_string().into(),
            sni: self.sni.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            source: self.source.clone(),
            to: index,
            default: self.default,
        }
    }
}

/// Few different labels, so that patterns and names meet often.
fn label() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "A", "xn--c"]).prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    (vec(label(), 1..6), "\\.?").prop_map(|(labels, dot)| labels.join(".") + &dot)
}

/// A valid pattern: labels and `*`, of which at most one becomes `**`.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => label(), 1 => Just("*".to_owned())];
    (vec(part, 1..5), prop::option::of(any::<prop::sample::Index>()), "\\.?").prop_map(
        |(mut parts, deep, dot)| {
            if let Some(deep) = deep {
                let at = deep.index(parts.len());
                parts[at] = "**".to_owned();
            }
            parts.join(".") + &dot
        },
    )
}

fn net() -> impl Strategy<Value = IpNet> {
    let nets =
        ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0", "10.1.2.3/32"];
    prop::sample::select(nets.map(|net| net.parse().unwrap()).to_vec())
}

fn address() -> impl Strategy<Value = IpAddr> {
    let addresses = ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "2001:db8::1", "fe80::1"];
    prop::sample::select(addresses.map(|address| address.parse().unwrap()).to_vec())
}

fn spec() -> impl Strategy<Value = Spec> {
    let source = prop_oneof![2 => Just(vec![]), 1 => vec(net(), 1..3)];
    let sni = prop_oneof![1 => Just(vec![]), 4 => vec(prop_oneof![pattern(), name()], 1..4)];
    (sni, source, prop::bool::weighted(0.15)).prop_map(|(sni, source, default)| Spec { sni, source, default })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn patterns_match_as_the_reference_does(pattern in pattern(), name in name()) {
        let compiled = Pattern::parse(&pattern).unwrap();
        let host = HostName::parse(&name).unwrap();
        prop_assert_eq!(compiled.matches(&host), matches(&split(&pattern), &split(&name)));
        let again = Pattern::parse(&compiled.to_string()).unwrap();
        prop_assert_eq!(again, compiled);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,40}", dots in "[a*.]{0,12}") {
        for text in [&text, &dots] {
            if let Ok(name) = HostName::parse(text) {
                prop_assert_eq!(HostName::parse(name.as_str()), Ok(name));
            }
            if let Ok(pattern) = Pattern::parse(text) {
                prop_assert_eq!(pattern.is_exact(), HostName::parse(text).is_ok());
            }
        }
    }

    #[test]
    fn the_table_finds_what_the_ranking_says(
        specs in vec(spec(), 0..8),
        names in vec(prop::option::of(name()), 1..6),
        source in address(),
        mapped in any::<bool>(),
    ) {
        let table = Table::build(specs.iter().enumerate().map(|(index, spec)| spec.compile(index)).collect());
        let client = match source {
            IpAddr::V4(v4) if mapped => IpAddr::V6(v4.to_ipv6_mapped()),
            other => other,
        };
        for name in names {
            let claims = |(at, spec)| claims(at, spec, name.as_deref(), source);
            let expected = specs.iter().enumerate().flat_map(claims).min().map(|(.., index)| index);
            let host = name.map(|name| HostName::parse(&name).unwrap());
            let found = table.find(host.as_ref(), client).map(|found| found.route.to);
            prop_assert_eq!(found, expected, "{:?} from {}", host, client);
        }
    }
}
