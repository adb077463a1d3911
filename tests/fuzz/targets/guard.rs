//! A frame of any bytes: a tag of a VLAN and what follows the frame change nothing of what is read of it.
//!
//! It begins with the frames in `seeds/guard`, made by hand: headers of segments to port 443 between addresses for documentation.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_common::guard::{Address, Segment, segment};

/// Where the EtherType is.
const ETHER_TYPE: usize = 12;
const VLAN: [u8; 2] = [0x81, 0x00];
const TAGS: [[u8; 2]; 2] = [VLAN, [0x88, 0xa8]];

fuzz_target!(|frame: &[u8]| {
    let read = segment(frame);
    if let Some(read) = read {
        // What it says of the header is an answer, whatever it is.
        let _ = read.head.opens();
        plain(frame, &read);
    }
    if !is_tagged(frame)
        && let Some((addresses, rest)) = frame.split_at_checked(ETHER_TYPE)
    {
        let tagged = [addresses, &VLAN, &[0, 7], rest].concat();
        assert_eq!(segment(tagged.as_slice()).map(essence), read.map(essence), "with a tag");
    }
    let longer = [frame, &[0; 8]].concat();
    if let (Some(longer), Some(read)) = (segment(longer.as_slice()), read) {
        assert_eq!(essence(longer), essence(read), "with something behind it");
    }
});

fn is_tagged(frame: &[u8]) -> bool {
    frame.get(ETHER_TYPE..).is_some_and(|rest| TAGS.iter().any(|tag| rest.starts_with(tag)))
}

fn essence(segment: Segment) -> impl PartialEq + std::fmt::Debug {
    (segment.source, segment.destination, segment.port)
}

/// Of an IPv4 packet without options everything is where RFC 791 has it.
fn plain(frame: &[u8], read: &Segment) {
    let Some([0x08, 0x00, 0x45, rest @ ..]) = frame.get(ETHER_TYPE..) else { return };
    let four = |at: usize| rest.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let (source, destination, ports) = (four(11), four(15), four(19));
    assert_eq!(source.map(Address::v4), Some(read.source));
    assert_eq!(destination.map(Address::v4), Some(read.destination));
    assert_eq!(ports.map(|ports| ports & 0xffff), Some(read.port.into()));
}
