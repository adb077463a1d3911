//! Real floods, beside real traffic.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::command::run;
use harness::daemon::Datapath;
use harness::deadline::dawdle;
use harness::guard::frame::{FIN, Frame, SYN};
use harness::netns::EDGE_IPV4;
use harness::peers::raw::transfer;
use harness::site::{RawSite, config};
use harness::wire::{Flood, Guard, addressed, hardware_address};

/// Packets of a flood in a second: enough to be felt, and few enough for two processors that also carry the flows.
const RATE: u64 = 60_000;

const FLOWS: u64 = 4;
const PORTION: u64 = 64 * 1024;
/// Each flow sends a portion so often: 4 flows of 26 Mbit/s each way.
const BEAT: Duration = Duration::from_millis(20);
const PORTIONS: u32 = 100;
const TRIES: usize = 3;

/// SYNs from many addresses to the shared port, as an attacker would invent them.
fn syns(site: &RawSite, count: u16, flags: u8) -> Result<Vec<Vec<u8>>> {
    let edge = hardware_address(&site.net.edge, "client")?;
    // Answers leave the edge, as they would on the Internet, and reach nobody.
    let route = ["route", "replace", "198.18.0.0/15", "via", "10.1.0.2"];
    run(site.net.edge.command("ip").args(route), b"")?.success()?;
    let one = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let from = IpAddr::V4(Ipv4Addr::new(198, 18, high, low));
        let frame = Frame { ports: (1024 + n, 443), ..Frame::new(from, EDGE_IPV4, 443, flags) };
        addressed(frame.bytes(), edge)
    };
    Ok((0..count).map(one).collect())
}

/// How long flows take that send portions at a fixed pace, both ways. Every byte is compared.
fn carry(site: &RawSite) -> Result<Duration> {
    let flows: Vec<_> = (0..FLOWS).map(|_| site.flow()).collect::<Result<_>>()?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let carriers: Vec<_> = flows
            .into_iter()
            .zip(0..)
            .map(|((mut client, mut server), flow): (_, u64)| {
                scope.spawn(move || {
                    for portion in 0..PORTIONS {
                        let key = flow * 1000 + u64::from(portion);
                        transfer(&mut client, &mut server, 2 * key, PORTION)?;
                        transfer(&mut server, &mut client, 2 * key + 1, PORTION)?;
                        dawdle((BEAT * (portion + 1)).saturating_sub(begun.elapsed()));
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        let mut joined = carriers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.try_for_each(|flow| flow.map_err(|_| anyhow::anyhow!("a flow panicked"))?)
    })?;
    Ok(begun.elapsed())
}

/// How long it may take at 95 % of the rate.
fn most(calm: Duration) -> Duration {
    calm.div_f64(0.95)
}

/// The flows have at most 5 % less of their rate while the flood is dropped.
fn beside(lines: &str, reason: &str, flags: u8) -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Sockmap).guard("client", lines))?;
    Guard::attached(&site.daemon, "client")?;
    let calm = carry(&site)?;
    let flood = Flood::start(&site.net.client, "edge", syns(&site, 4096, flags)?, RATE)?;
    let mut stormy = carry(&site)?;
    for _ in 1..TRIES {
        // The machine may have been busy with something else: a flood that is felt is felt every time.
        if stormy > most(calm) {
            stormy = carry(&site)?;
        }
    }
    // Whoever has a connection gets further ones.
    let flow = site.flow()?;
    for _ in 0..5 {
        drop(site.flow()?);
    }
    drop(flow);
    let sent = flood.stop()?;
    println!(
        "{reason}: {sent} packets of a flood; {FLOWS} flows took {calm:?} without and {stormy:?} with it"
    );
    ensure!(stormy <= most(calm), "{calm:?} without, {stormy:?} with the flood");
    ensure!(sent > RATE / 2, "the flood was none: {sent}");
    let guard = Guard::of(&site.daemon)?;
    let (dropped, passed) = (guard.count("drop", reason), guard.count("pass", "syn"));
    ensure!(dropped > sent * 9 / 10, "{dropped} of {sent} were dropped: {guard:?}");
    ensure!(reason == "ceiling" || passed < 500, "{passed} were let in");
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn flows_notice_nothing_of_a_flood_from_denied_addresses() -> Result<()> {
    beside("deny = [\"198.18.0.0/15\"]\n", "denied", SYN)
}

#[test]
fn flows_notice_nothing_of_a_flood_of_impossible_packets() -> Result<()> {
    beside("", "flags", SYN | FIN)
}

#[test]
fn flows_notice_nothing_of_a_flood_above_the_ceiling() -> Result<()> {
    // Each address keeps to its own rate: only all of them together are too many.
    beside("syn_ceiling = 1000\nsyn_reserve = 50\n", "ceiling", SYN)
}

#[test]
fn flows_notice_nothing_of_a_flood_from_few_sources() -> Result<()> {
    let lines = "source_v4 = 16\nsyn_rate = 50\nsyn_burst = 50\nallow = [\"10.0.0.0/8\"]\n";
    beside(lines, "source_rate", SYN)
}

/// Without a ceiling, all SYNs of invented addresses reach the kernel, whose SYN cookies keep the service going for everybody.
#[test]
fn syn_cookies_and_the_rates_of_sources_keep_the_service_open_to_strangers() -> Result<()> {
    let site = RawSite::start(&config().guard("client", "syn_rate = 20\nsyn_burst = 20\n"))?;
    Guard::attached(&site.daemon, "client")?;
    let cookies =
        site.net.edge.enter(|| Ok(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?))?;
    ensure!(cookies.trim() != "0", "SYN cookies are off in a new network namespace");
    let flood = Flood::start(&site.net.client, "edge", syns(&site, 16_384, SYN)?, 20_000)?;
    let guard =
        Guard::wait(&site.daemon, "the flood to arrive", |guard| guard.count("pass", "syn") > 10_000)?;
    ensure!(guard.count("drop", "ceiling") == 0, "{guard:?}");
    let begun = Instant::now();
    for _ in 0..10 {
        drop(site.flow()?);
    }
    let took = begun.elapsed();
    let sent = flood.stop()?;
    println!("10 connections took {took:?} beside {sent} SYNs of invented addresses");
    ensure!(sent > 10_000, "the flood was none: {sent}");
    let cookies = tcp_counter(&site, "SyncookiesSent")?;
    ensure!(cookies > 1000, "only {cookies} cookies were sent: the kernel was not in need");
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// One of the kernel's counters for TCP in the edge's namespace: a line of names, and one of values.
fn tcp_counter(site: &RawSite, name: &str) -> Result<u64> {
    let text = site.net.edge.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("TcpExt:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [names, values] = &lines[..] else { anyhow::bail!("no counters: {text}") };
    let found = names.iter().zip(values).find(|(known, _)| **known == name);
    Ok(found.map(|(_, value)| value.parse()).transpose()?.unwrap_or_default())
}
