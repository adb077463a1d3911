//! How much `need` may ask for, and how often a caller looks that follows it.

use super::usual::{MAX_PEEK, inspect};
use proptest::prelude::*;
use proxy_common::hello::{HelloFailure, Verdict};

use super::builder::{Hello, record, records};
use super::laws::{MAX_LOOKS, follow};

const MAX_RECORD: usize = 1 << 14;

#[test]
fn records_of_one_byte_are_looked_at_few_times() {
    let longest = MAX_PEEK / 6 - 4;
    for len in (100..longest).step_by(50).chain([longest]) {
        let stream = records(&Hello::new("a.example").padded_to(len), &[1]);
        let (looks, verdict) = follow(&stream);
        assert!(matches!(verdict, Verdict::Hello(_)));
        assert!(looks <= MAX_LOOKS, "{looks} looks at {len} bytes");
    }
}

#[test]
fn too_large_is_found_in_few_looks_too() {
    for sizes in [&[1][..], &[1, 2], &[2], &[1, 1, 1, 1, 900]] {
        let stream = records(&Hello::new("a.example").padded_to(16384), sizes);
        let (looks, verdict) = follow(&stream);
        assert!(looks <= MAX_LOOKS, "{looks} looks at records of {sizes:?}");
        assert_eq!(verdict == Verdict::Unusable(HelloFailure::TooLarge), stream.len() > MAX_PEEK);
    }
}

#[test]
fn a_hello_in_one_record_takes_four_looks_at_most() {
    for len in [100, 1500, 16000] {
        let stream = record(&Hello::new("a.example").padded_to(len));
        // Nothing; the first byte; the headers; all of it.
        assert_eq!(follow(&stream).0, 4);
    }
}

/// The stream that begins with the first `cut` bytes of `message` in records of these sizes and ends as early
/// as it can, and whether the cut is inside the length of a record.
fn shortest_end(message: &[u8], sizes: &[usize], cut: usize) -> (Vec<u8>, bool) {
    let stream = records(message, sizes);
    let (mut at, mut taken) = (0, 0);
    loop {
        let len = usize::from(u16::from_be_bytes([stream[at + 3], stream[at + 4]]));
        let end = at + 5 + len;
        // The first record that is not there in full: keep it if its header is, else start the rest here.
        if end > cut || end == stream.len() {
            let header_is_there = cut >= at + 5;
            let (keep, used) = if header_is_there { (end, taken + len) } else { (at, taken) };
            let mut shortest = stream[..keep].to_vec();
            if used < message.len() {
                shortest.extend(records(&message[used..], &[MAX_RECORD]));
            }
            let mid_header = cut > at + 3 && cut < at + 5;
            return (shortest, mid_header);
        }
        at = end;
        taken += len;
    }
}

/// How many bytes of the message are in the first `cut` bytes of a stream of whole records.
fn message_bytes(stream: &[u8], cut: usize) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < cut {
        let len = usize::from(u16::from_be_bytes([stream[at + 3], stream[at + 4]]));
        count += len.min(cut.saturating_sub(at + 5));
        at += 5 + len;
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A stream that starts as any hello may go on so that it ends at `need`, and not earlier.
    #[test]
    fn need_is_where_the_hello_can_end(
        len in 100_usize..16384,
        sizes in prop::collection::vec(prop_oneof![Just(1_usize), 1_usize..40, 1_usize..MAX_RECORD], 1..20),
        at in any::<prop::sample::Index>(),
    ) {
        let message = Hello::new("a.example").padded_to(len);
        let stream = records(&message, &sizes);
        let cut = at.index(stream.len());
        let (shortest, mid_length) = shortest_end(&message, &sizes, cut);
        match inspect(&stream[..cut]) {
            Verdict::Incomplete { need } => {
                prop_assert!(need <= shortest.len());
                prop_assert!(matches!(inspect(&shortest), Verdict::Hello(_)));
                // The length in the message header is known when four bytes of the message are there.
                if !mid_length && message_bytes(&stream, cut) >= 4 {
                    prop_assert_eq!(need, shortest.len());
                }
            }
            verdict => {
                prop_assert_eq!(verdict, Verdict::Unusable(HelloFailure::TooLarge));
                prop_assert!(shortest.len() > MAX_PEEK);
            }
        }
    }

    #[test]
    fn no_choice_of_records_makes_many_looks(
        len in prop_oneof![100_usize..6000, 100_usize..16384],
        sizes in prop::collection::vec(
            prop_oneof![6 => Just(1_usize), 2 => 1_usize..4, 1 => 1_usize..3000],
            1..400,
        ),
    ) {
        let stream = records(&Hello::new("a.example").padded_to(len), &sizes);
        let (looks, verdict) = follow(&stream);
        prop_assert!(looks <= MAX_LOOKS, "{} looks", looks);
        prop_assert_eq!(matches!(verdict, Verdict::Hello(_)), stream.len() <= MAX_PEEK);
    }
}
