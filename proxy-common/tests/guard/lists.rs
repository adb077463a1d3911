//! The compiled lists against a walk through all networks.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use proxy_common::abi::guard::LIST_WORDS;
use proxy_common::guard::{Listed, MAX_BOUNDARIES, Table};

use super::harness::model::contains;
use super::harness::random::Numbers;
use super::world::{find, net};

fn expected(allow: &[(IpAddr, u8)], deny: &[(IpAddr, u8)], address: IpAddr) -> Listed {
    let on = |list: &[(IpAddr, u8)]| list.iter().any(|&(net, bits)| contains(net, bits, address));
    if on(allow) {
        Listed::Allow
    } else if on(deny) {
        Listed::Deny
    } else {
        Listed::No
    }
}

/// The first and last address of each network, and those beside them.
fn edges(networks: &[(IpAddr, u8)]) -> Vec<IpAddr> {
    let near = |(ip, bits): (IpAddr, u8)| {
        let net = IpNet::new(ip, bits).unwrap();
        match (net.network(), net.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (u32::from(first), u32::from(last));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|ip| IpAddr::V4(ip.into()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (u128::from(first), u128::from(last));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|ip| IpAddr::V6(ip.into()))
            }
            _ => unreachable!("one family"),
        }
    };
    networks.iter().copied().flat_map(near).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_address_is_on_the_list_that_its_networks_say(
        seed: u64,
        allow in prop::collection::vec((any::<IpAddr>(), 0_u8..=128), 0..6),
        deny in prop::collection::vec((any::<IpAddr>(), 0_u8..=128), 0..80),
        spread in 0_usize..3,
    ) {
        let mut numbers = Numbers::new(seed);
        // Networks in one corner share slots of the index, those all over do not. And where a few are far away from the others,
        // it looks at the others only.
        let every = [1, usize::MAX, 40][spread];
        let mut fit = |list: Vec<(IpAddr, u8)>| -> Vec<(IpAddr, u8)> {
            let fit = |(n, (ip, bits)): (usize, (IpAddr, u8))| {
                let ip = if (n + 1) % every == 0 { ip } else { numbers.address(ip.is_ipv4()) };
                (ip, if ip.is_ipv4() { bits % 33 } else { bits })
            };
            list.into_iter().enumerate().map(fit).collect()
        };
        let (allow, deny) = (fit(allow), fit(deny));
        let table = Table::build(allow.iter().copied().map(net), deny.iter().copied().map(net)).unwrap();
        let near = [edges(&allow), edges(&deny)].concat();
        let random = (0..20).map(|n| numbers.address(n % 2 == 0));
        for address in near.into_iter().chain(random) {
            prop_assert_eq!(find(&table, address), expected(&allow, &deny, address), "{}", address);
        }
    }
}

#[test]
fn empty_lists_and_those_with_everything() {
    let (low, high): ([IpAddr; 2], [IpAddr; 2]) = (
        ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()],
        ["255.255.255.255".parse().unwrap(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()],
    );
    let all: Vec<IpNet> = low.iter().map(|&ip| net((ip, 0))).collect();
    let ends = [low, high].concat();
    let empty = Table::build([], []).unwrap();
    assert!(ends.iter().all(|&end| find(&empty, end) == Listed::No));
    let everything = Table::build([], all.clone()).unwrap();
    assert!(ends.iter().all(|&end| find(&everything, end) == Listed::Deny));
    let both = Table::build(all.clone(), all).unwrap();
    assert!(ends.iter().all(|&end| find(&both, end) == Listed::Allow));
}

#[test]
fn as_many_networks_as_there_is_room_for_and_one_more() {
    let most = u32::try_from(MAX_BOUNDARIES / 2).unwrap();
    // With the one before the first, each is two boundaries.
    let hosts = |count: u32| (1..=count).map(|n| IpNet::from(IpAddr::V4((n * 2).into())));
    let table = Table::build([], hosts(most - 1)).unwrap();
    for n in [2, 3, most * 2 - 2, most * 2 - 1, most * 2] {
        let expected = if n % 2 == 0 && n < most * 2 { Listed::Deny } else { Listed::No };
        assert_eq!(find(&table, IpAddr::V4(n.into())), expected, "{n}");
    }
    assert!(Table::build([], hosts(most)).is_err());
}

#[test]
fn the_words_are_within_the_map_and_each_is_written_once() {
    let mut numbers = Numbers::new(7);
    let deny = (0..5000).map(|n| net((numbers.address(n % 2 == 0), if n % 2 == 0 { 32 } else { 128 })));
    let table = Table::build([], deny).unwrap();
    let mut written = vec![false; LIST_WORDS];
    table.write(|word, _| assert!(!std::mem::replace(&mut written[word], true), "{word}"));
}
