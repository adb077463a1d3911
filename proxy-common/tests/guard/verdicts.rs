//! The verdict on frames of every form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proxy_common::guard::{Reason, decide};

use super::harness::frame::{ACK, Extension, FIN, Frame, RST, SYN};
use super::harness::model::Site;
use super::harness::random::Numbers;
use super::world::{Plain, source};

const EDGE: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn site() -> Site {
    Site { listeners: EDGE.map(|edge| (ip(edge), 443)).to_vec(), ..Site::default() }
}

/// A frame from the client to the edge, in both families.
fn both(flags: u8) -> [Frame; 2] {
    [0, 1].map(|n| Frame::new(ip(CLIENT[n]), ip(EDGE[n]), 443, flags))
}

/// The verdict on a frame, which is also that of the model.
#[track_caller]
fn verdict(site: &Site, frame: &Frame) -> &'static str {
    let bytes = frame.bytes();
    let label = decide(bytes.as_slice(), &Plain::new(site)).label();
    assert_eq!(label, site.judge(&bytes), "{frame:?}");
    label
}

#[test]
fn what_a_listener_gets() {
    for (flags, expected) in [(SYN, "syn"), (ACK, "segment"), (FIN | ACK, "segment"), (RST, "segment")] {
        for frame in both(flags) {
            assert_eq!(verdict(&site(), &frame), expected);
            assert_eq!(verdict(&site(), &Frame { ports: (443, 444), ..frame.clone() }), "other");
            assert_eq!(verdict(&site(), &Frame { to: frame.from, ..frame.clone() }), "other");
            assert_eq!(verdict(&site(), &Frame { protocol: 17, ..frame.clone() }), "other");
            for tags in [vec![0x8100], vec![0x88a8, 0x8100]] {
                assert_eq!(verdict(&site(), &Frame { tags, ..frame.clone() }), expected);
            }
            assert_eq!(verdict(&site(), &Frame { tags: vec![0x8100; 3], ..frame }), "other");
        }
    }
}

#[test]
fn flags_that_do_not_go_together() {
    for flags in 0..64 {
        for frame in both(flags) {
            let expected = match flags & !8 {
                2 | 0x22 => "syn",
                0x12 | 0x04 | 0x14 | 0x11 | 0x31 | 0x10 | 0x30 => "segment",
                _ => "flags",
            };
            assert_eq!(verdict(&site(), &frame), expected, "{flags:#x}");
        }
    }
}

#[test]
fn headers_that_cannot_be() {
    for frame in both(ACK) {
        for offset in 0..5 {
            assert_eq!(verdict(&site(), &Frame { offset, ..frame.clone() }), "offset");
        }
        assert_eq!(verdict(&site(), &Frame { offset: 6, ..frame.clone() }), "offset");
        assert_eq!(verdict(&site(), &Frame { offset: 6, rest: 4, ..frame.clone() }), "segment");
        assert_eq!(verdict(&site(), &Frame { lie: -1, ..frame.clone() }), "truncated");
        assert_eq!(verdict(&site(), &Frame { lie: -16, ..frame.clone() }), "truncated");
        assert_eq!(verdict(&site(), &Frame { lie: -17, ..frame.clone() }), "other", "no port is left");
        assert_eq!(verdict(&site(), &Frame { big: true, offset: 15, ..frame }), "segment");
    }
}

#[test]
fn options_fragments_and_extensions() {
    let [v4, v6] = both(SYN);
    assert_eq!(verdict(&site(), &Frame { options: 10, ..v4.clone() }), "syn");
    assert_eq!(verdict(&site(), &Frame { fragment: (0, true), ..v4.clone() }), "syn");
    assert_eq!(verdict(&site(), &Frame { fragment: (0, true), lie: -12, ..v4.clone() }), "fragment");
    assert_eq!(verdict(&site(), &Frame { fragment: (1, false), ..v4 }), "other");
    let with = |extensions: &[Extension]| Frame { extensions: extensions.to_vec(), ..v6.clone() };
    use Extension::{Authentication, Destination, Fragment, HopByHop, Routing};
    let chain =
        [HopByHop(1), Destination(0), Routing(0), Fragment(0, false), Authentication(4), Destination(9)];
    assert_eq!(verdict(&site(), &with(&chain)), "syn");
    assert_eq!(verdict(&site(), &with(&[Destination(0); 7])), "other", "longer than any real one");
    assert_eq!(verdict(&site(), &with(&[Routing(1)])), "other", "it is for somebody else");
    assert_eq!(verdict(&site(), &with(&[Fragment(0, true)])), "syn");
    assert_eq!(verdict(&site(), &with(&[Fragment(185, true)])), "other");
    assert_eq!(verdict(&site(), &Frame { lie: -4, ..with(&[Fragment(0, true)]) }), "fragment");
}

#[test]
fn lists_and_bans() {
    for (frame, bits) in both(SYN | FIN).into_iter().zip([32, 128]) {
        let from = vec![(frame.from, bits)];
        assert_eq!(verdict(&site(), &frame), "flags");
        assert_eq!(verdict(&Site { deny: from.clone(), ..site() }, &frame), "denied");
        assert_eq!(verdict(&Site { deny: from.clone(), allow: from, ..site() }, &frame), "allowed");
        let mut world = Plain::new(&site());
        world.banned.insert(source(frame.from), world.now.get() + 1);
        let judge = |world: &Plain| decide(frame.bytes().as_slice(), world);
        assert_eq!(judge(&world), Reason::Banned);
        world.now.set(world.now.get() + 1);
        assert_eq!(judge(&world), Reason::Flags, "it is over");
    }
}

/// Frames cut at every byte: no cut one is anything else than the whole one, cut.
#[test]
fn every_truncation_is_judged_as_the_model_does() {
    let mut chain = both(SYN)[1].clone();
    chain.extensions =
        vec![Extension::HopByHop(1), Extension::Authentication(1), Extension::Fragment(0, true)];
    chain.tags = vec![0x88a8, 0x8100];
    for frame in [both(SYN).to_vec(), vec![chain]].concat() {
        let bytes = frame.bytes();
        for length in 0..=bytes.len() {
            let label = decide(&bytes[..length], &Plain::new(&site())).label();
            assert_eq!(label, site().judge(&bytes[..length]), "{length} of {frame:?}");
        }
    }
}

/// The generator makes frames of all kinds, or the properties below would say little.
#[test]
fn random_frames_meet_every_verdict() {
    let mut numbers = Numbers::new(1);
    let mut seen = BTreeMap::new();
    for _ in 0..400 {
        let site = numbers.site();
        for _ in 0..100 {
            *seen.entry(site.judge(&numbers.frame(&site))).or_insert(0) += 1;
        }
    }
    for label in ["other", "allowed", "segment", "syn", "denied", "truncated", "offset", "flags", "fragment"]
    {
        assert!(seen.get(label).is_some_and(|&count| count > 20), "{label}: {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_frames_are_judged_as_the_model_does(seed: u64) {
        let mut numbers = Numbers::new(seed);
        let site = numbers.site();
        let world = Plain::new(&site);
        for _ in 0..100 {
            let frame = numbers.frame(&site);
            prop_assert_eq!(decide(frame.as_slice(), &world).label(), site.judge(&frame));
        }
    }

    #[test]
    fn random_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let site = site();
        prop_assert_eq!(decide(bytes.as_slice(), &Plain::new(&site)).label(), site.judge(&bytes));
    }

    /// Nothing but TCP to a listener's address and port is ever dropped, whatever is wrong with it.
    #[test]
    fn what_is_for_others_always_passes(seed: u64, deny_all: bool) {
        let mut numbers = Numbers::new(seed);
        let mut site = numbers.site();
        if deny_all {
            site.deny = vec![(ip("0.0.0.0"), 0), (ip("::"), 0)];
        }
        let elsewhere = Site { listeners: vec![(ip("203.0.113.77"), 443), (ip("2001:db8:77::1"), 443)], ..site.clone() };
        for _ in 0..100 {
            let frame = numbers.frame(&site);
            prop_assert_eq!(decide(frame.as_slice(), &Plain::new(&elsewhere)), Reason::Other);
        }
    }
}
