//! The program itself, put to the kernel frame by frame, against the model.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use harness::guard::frame::{ACK, Extension, Frame, SYN};
use harness::guard::model::Site;
use harness::guard::random::Numbers;
use harness::netns::{BACKEND_IPV4, CLIENT_IPV4, CLIENT_IPV6, EDGE_IPV4, EDGE_IPV6};
use harness::site::{RawSite, config};
use harness::wire::{Guard, Program};

/// Bytes of the shortest frame that the kernel puts to a program.
const SHORTEST: usize = 14;
const FRAMES: usize = 30_000;

const DROP: u32 = 1;

/// A site whose listeners are those of the daemon below.
fn model(numbers: &mut Numbers) -> Site {
    // All addresses of the edge, since a byte of a frame is changed at times.
    let others = [[10, 2, 0, 1], [127, 0, 0, 1]].map(IpAddr::from);
    let edge = [
        EDGE_IPV4,
        EDGE_IPV6,
        others[0],
        others[1],
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1).into(),
    ];
    let listeners = edge.iter().flat_map(|&address| [(address, 443), (address, 10_943)]).collect();
    Site { listeners, ..numbers.site() }
}

fn networks(list: &[(IpAddr, u8)]) -> String {
    let text = |&(address, bits): &(IpAddr, u8)| {
        // Written without the bits beyond the prefix.
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                format!("\"{}/{bits}\"", Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                format!("\"{}/{bits}\"", Ipv6Addr::from(u128::from(address) & mask))
            }
        }
    };
    format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(", "))
}

fn lines(site: &Site) -> String {
    let mut lines = "syn_rate = 0\n".to_owned();
    for (key, list) in [("allow", &site.allow), ("deny", &site.deny)] {
        if !list.is_empty() {
            lines += &format!("{key} = {}\n", networks(list));
        }
    }
    lines
}

/// Puts a frame to the program, and checks what it says; returns the label.
fn check(program: &Program, site: &Site, frame: &[u8]) -> Result<&'static str> {
    let label = site.judge(frame);
    let drops = !matches!(label, "other" | "allowed" | "segment" | "syn");
    let run = program.run(frame, 1)?;
    ensure!((run.verdict == DROP) == drops, "{run:?} where the model says {label}: {frame:02x?}");
    Ok(label)
}

/// The counters of the daemon have grown by as much as the model says.
fn compare(before: &Guard, after: &Guard, expected: &BTreeMap<&str, u64>) -> Result<()> {
    for (&label, &count) in expected {
        let counted =
            ["pass", "drop"].map(|verdict| after.count(verdict, label) - before.count(verdict, label));
        let counted: u64 = counted.iter().sum();
        // The kernel's own packets on the wire (neighbour discovery) are somebody else's.
        ensure!(counted == count || (label == "other" && counted > count), "{label}: {counted}, not {count}");
    }
    Ok(())
}

#[test]
fn random_frames_are_judged_as_the_model_does() -> Result<()> {
    for seed in 1..=3 {
        let mut numbers = Numbers::new(seed);
        let site = model(&mut numbers);
        let live = RawSite::start(&config().guard("client", &lines(&site)))?;
        let before = Guard::of(&live.daemon)?;
        let program = before.program()?;
        let mut expected = BTreeMap::new();
        for _ in 0..FRAMES {
            let frame = numbers.frame(&site);
            if frame.len() >= SHORTEST {
                *expected.entry(check(&program, &site, &frame)?).or_default() += 1;
            }
        }
        for label in ["other", "segment", "syn", "truncated", "offset", "flags", "fragment"] {
            ensure!(expected.get(label).is_some_and(|&count| count > 20), "{label}: {expected:?}");
        }
        compare(&before, &Guard::of(&live.daemon)?, &expected)?;
        live.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn every_field_cut_and_byte_is_judged_as_the_model_does() -> Result<()> {
    let mut site = model(&mut Numbers::new(9));
    (site.allow, site.deny) = (Vec::new(), vec![(IpAddr::from([203, 0, 113, 0]), 24)]);
    let live = RawSite::start(&config().guard("client", &lines(&site)))?;
    let program = Guard::of(&live.daemon)?.program()?;
    let mut frames = Vec::new();
    for (from, to) in [(CLIENT_IPV4, EDGE_IPV4), (CLIENT_IPV6, EDGE_IPV6)] {
        for flags in 0..=255 {
            frames.push(Frame::new(from, to, 443, flags));
        }
        for offset in 0..16 {
            for rest in [0, 20, 40] {
                frames.push(Frame { offset, rest, ..Frame::new(from, to, 443, ACK) });
            }
        }
        for tags in [vec![0x8100], vec![0x88a8, 0x8100], vec![0x8100; 3]] {
            frames.push(Frame { tags, ..Frame::new(from, to, 10_943, SYN) });
        }
        for options in 0..=10 {
            frames.push(Frame { options, ..Frame::new(from, to, 443, SYN) });
        }
        use Extension::{Authentication, Destination, Fragment, HopByHop, Routing};
        for chain in [
            vec![
                HopByHop(31),
                Destination(7),
                Routing(0),
                Fragment(0, true),
                Authentication(4),
                Destination(0),
            ],
            vec![Destination(0); 6],
            vec![Destination(0); 7],
            vec![Fragment(1, false)],
            vec![Routing(1)],
        ] {
            frames.push(Frame { extensions: chain, ..Frame::new(from, to, 443, SYN) });
        }
        frames.push(Frame { fragment: (0, true), ..Frame::new(from, to, 443, SYN) });
        frames.push(Frame { fragment: (3, true), ..Frame::new(from, to, 443, SYN) });
        frames.push(Frame { big: true, ..Frame::new(from, to, 443, ACK) });
    }
    frames.push(Frame::new(IpAddr::from([203, 0, 113, 9]), EDGE_IPV4, 443, SYN));
    frames.push(Frame::new(CLIENT_IPV4, BACKEND_IPV4, 443, SYN));
    for frame in &frames {
        let bytes = frame.bytes();
        check(&program, &site, &bytes)?;
        for length in SHORTEST..bytes.len() {
            check(&program, &site, &bytes[..length])?;
        }
    }
    let mut numbers = Numbers::new(77);
    for _ in 0..FRAMES {
        let length = SHORTEST + usize::from(numbers.below(120));
        let bytes: Vec<u8> = (0..length).map(|_| numbers.below(u8::MAX)).collect();
        check(&program, &site, &bytes)?;
    }
    live.daemon.stop()
}
