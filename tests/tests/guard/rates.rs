//! How fast connections may be opened, by the kernel's clock.

use std::net::IpAddr;

use anyhow::Result;
use harness::guard::frame::{ACK, Frame, SYN};
use harness::netns::{EDGE_IPV4, EDGE_IPV6};
use harness::site::{RawSite, config};
use harness::wire::{Guard, Program};

fn passes(program: &Program, from: IpAddr, flags: u8, count: usize) -> Result<usize> {
    let to = if from.is_ipv4() { EDGE_IPV4 } else { EDGE_IPV6 };
    let frame = Frame::new(from, to, 443, flags).bytes();
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(program.run(&frame, 1)?.verdict == 2);
    }
    Ok(passed)
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn v6(net: u16, last: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, last])
}

#[test]
fn a_source_gets_its_burst_and_a_network_of_ipv6_is_one_source() -> Result<()> {
    // So slow that no token comes while the test runs.
    let site = RawSite::start(&config().guard("client", "syn_rate = 1\nsyn_burst = 5\n"))?;
    let program = Guard::of(&site.daemon)?.program()?;
    let about = |passed: usize| (5..=8).contains(&passed);
    let passed = passes(&program, v4(1), SYN, 100)?;
    assert!(about(passed), "{passed}");
    assert_eq!(passes(&program, v4(1), ACK, 100)?, 100);
    assert!(about(passes(&program, v4(2), SYN, 100)?), "a source of its own");
    let [one, same, other] = [v6(1, 1), v6(1, 2), v6(2, 1)].map(|from| passes(&program, from, SYN, 100));
    let (one, same, other) = (one?, same?, other?);
    assert!(about(one) && same <= 3 && about(other), "{one} {same} {other}");
    let guard = Guard::of(&site.daemon)?;
    assert!(guard.count("drop", "source_rate") >= 460, "{guard:?}");
    Guard::wait(&site.daemon, "four sources to be counted", |guard| guard.sources >= 4)?;
    site.daemon.stop()
}

#[test]
fn what_is_kept_of_the_ceiling_is_for_sources_with_connections() -> Result<()> {
    let site = RawSite::start(&config().guard("client", "syn_ceiling = 100\nsyn_reserve = 50\n"))?;
    let program = Guard::of(&site.daemon)?.program()?;
    let flow = site.flow()?;
    let client = flow.0.local_addr()?.ip();
    harness::deadline::wait_for(
        "a source with a connection to be known",
        harness::deadline::PATIENCE,
        || {
            // A stranger uses up what is for all; the client still gets in.
            passes(&program, v4(9), SYN, 100).ok()?;
            (passes(&program, client, SYN, 1).ok()? == 1).then_some(())
        },
    )?;
    passes(&program, v4(9), SYN, 200)?;
    assert!(passes(&program, v4(9), SYN, 100)? < 20);
    let guard = Guard::of(&site.daemon)?;
    assert!(guard.count("drop", "ceiling") > 100, "{guard:?}");
    drop(flow);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn a_dry_run_counts_and_drops_nothing() -> Result<()> {
    let lines = "dry_run = true\nsyn_rate = 1\nsyn_burst = 1\ndeny = [\"203.0.113.0/24\"]\n";
    let site = RawSite::start(&config().guard("client", lines))?;
    let program = Guard::of(&site.daemon)?.program()?;
    assert_eq!(passes(&program, v4(1), SYN, 50)?, 50);
    assert_eq!(passes(&program, v4(1), SYN | 1, 10)?, 10);
    assert_eq!(passes(&program, IpAddr::from([203, 0, 113, 5]), ACK, 10)?, 10);
    let guard = Guard::of(&site.daemon)?;
    assert!(guard.dry_run);
    assert!(guard.count("dry_run", "source_rate") >= 45, "{guard:?}");
    assert_eq!((guard.count("dry_run", "flags"), guard.count("dry_run", "denied")), (10, 10));
    for reason in ["source_rate", "flags", "denied"] {
        assert_eq!(guard.count("drop", reason), 0, "{reason}");
    }
    let text = Guard::command(&site.daemon, &["stats"])?.success()?;
    assert!(text.contains("drops nothing (dry_run)") && text.contains("dry_run   flags"), "{text}");
    site.daemon.stop()
}
