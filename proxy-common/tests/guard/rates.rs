//! Who may open connections, and how fast.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proxy_common::guard::{Rate, Reason, decide};

use super::harness::frame::{ACK, Frame, SYN};
use super::harness::model::Site;
use super::world::{Plain, source};

const MS: u64 = 1_000_000;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn world() -> Plain {
    Plain::new(&Site { listeners: vec![(ip(1), 443)], ..Site::default() })
}

fn send(world: &Plain, from: u8, flags: u8) -> Reason {
    decide(Frame::new(ip(from), ip(1), 443, flags).bytes().as_slice(), world)
}

/// A bucket as it is drawn in books: so many nanoseconds' worth of tokens, at most so many.
struct Bucket {
    credit: u64,
    at: u64,
}

proptest! {
    #[test]
    fn each_source_has_a_bucket_of_its_own(
        rate in 1_u32..2000, burst in 1_u32..50,
        events in prop::collection::vec((2_u8..5, 0_u64..200), 1..300),
    ) {
        let mut world = world();
        world.source = Rate::new(rate, burst);
        let (token, most) = (world.source.interval_ns, world.source.interval_ns * u64::from(burst));
        let mut books: HashMap<u8, Bucket> = HashMap::new();
        for (from, pause) in events {
            world.now.set(world.now.get() + pause * MS);
            let now = world.now.get();
            let book = books.entry(from).or_insert(Bucket { credit: most, at: now });
            book.credit = most.min(book.credit + (now - book.at));
            book.at = now;
            let passes = book.credit >= token;
            book.credit -= if passes { token } else { 0 };
            let expected = if passes { Reason::Syn } else { Reason::SourceRate };
            prop_assert_eq!(send(&world, from, SYN), expected);
        }
    }
}

#[test]
fn strangers_together_have_a_ceiling_and_those_with_connections_more() {
    let mut world = world();
    (world.ceiling, world.reserve) = (Rate::new(100, 10), Rate::new(50, 5));
    world.live.insert(source(ip(9)));
    let passed = |world: &Plain, from: u8| (0..100).filter(|_| send(world, from, SYN) == Reason::Syn).count();
    assert_eq!(passed(&world, 2), 10);
    assert_eq!(passed(&world, 3), 0, "another stranger");
    assert_eq!(passed(&world, 9), 5, "what is kept");
    assert_eq!(send(&world, 3, SYN), Reason::Ceiling);
    assert_eq!(send(&world, 3, ACK), Reason::Segment, "what is not the first packet needs no token");
    world.now.set(world.now.get() + 1000 * MS);
    assert_eq!(passed(&world, 9), 15, "both");
    assert_eq!(passed(&world, 3), 0);
}

/// A flood from invented addresses must not push real sources out of the map.
#[test]
fn a_source_is_entered_only_if_its_packet_passes() {
    let mut world = world();
    (world.source, world.ceiling) = (Rate::new(10, 1), Rate::new(1, 1));
    assert_eq!(send(&world, 2, SYN), Reason::Syn);
    assert_eq!(send(&world, 2, SYN), Reason::SourceRate);
    for from in 3..200 {
        assert_eq!(send(&world, from, SYN), Reason::Ceiling);
    }
    assert_eq!(world.buckets.borrow().len(), 1);
}
