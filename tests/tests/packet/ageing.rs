//! No daemon runs: the kernel forgets flows whose ends have gone, and those only.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::daemon::{Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::{BACKEND_IPV4, CLIENT_IPV4, EDGE_IPV4, WordMap};
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use proxy_common::abi::packet::{
    Address, ENTRY_WORDS, Entry, FLOWS, KEY_WORDS, Key, SERVER_WORDS, SERVERS, Server, WATCH, address_of,
    state, watch,
};

use crate::counted;

/// A daemon is taken for dead after 5 s; the bounds of the tests are a few seconds.
const LONG: Duration = Duration::from_secs(40);

fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(libc::SIGKILL)?;
    ensure!(daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    Ok(())
}

fn flows(pins: &Pins) -> Result<WordMap> {
    Ok(WordMap::open(&pins.pinned(FLOWS)?, KEY_WORDS, ENTRY_WORDS)?)
}

/// Idle for too long in the very moments in which they leave their sockets.
#[test]
fn flows_that_have_rested_for_too_long_while_they_leave_end_all_the_same() -> Result<()> {
    let pins = Pins::create()?;
    let site =
        RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1s").timeout("idle", "1s"))?;
    let mut pairs = Vec::new();
    for number in 0..64 {
        let (mut client, mut server) = site.flow()?;
        // Each a little longer after it was accepted.
        dawdle(Duration::from_millis(number));
        transfer(&mut client, &mut server, number, 100)?;
        pairs.push((client, server));
    }
    site.daemon.wait_for_idle()?;
    for (client, _) in &pairs {
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        ensure!(access.reason == "idle_timeout", "{access:?}");
    }
    site.daemon.stop()
}

#[test]
fn flows_that_rest_are_forgotten_and_those_that_live_are_not() -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s").timeout("idle", "4s");
    let mut site = RawSite::start(&config)?;
    let mut pairs = (0..3).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut pairs {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(3)?;
    kill(&mut site.daemon)?;
    let map = flows(&pins)?;
    assert_eq!(map.count()?, 6);
    let (mut client, mut server) = pairs.remove(0);
    let mut sent = 1000;
    wait_for("two flows to be forgotten", LONG, || {
        sent += 1;
        // This one lives.
        transfer(&mut client, &mut server, sent, 100).ok()?;
        (map.count().ok()? == 2).then_some(())
    })?;
    transfer(&mut server, &mut client, 2, 100_000)?;
    for (mut client, mut server) in pairs {
        client.write_all(b"x")?;
        expect_ending(&mut client, Ending::Reset)?;
        server.write_all(b"x")?;
        expect_ending(&mut server, Ending::Reset)?;
    }
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(1)?;
    assert_eq!(counted(&site.daemon)?.aged, 2);
    transfer(&mut client, &mut server, 3, 100_000)?;
    Ok(())
}

#[test]
fn flows_that_have_ended_are_forgotten_sooner() -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s").timeout("half_close", "2s");
    let mut site = RawSite::start(&config)?;
    let mut pairs = (0..3).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut pairs {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(3)?;
    kill(&mut site.daemon)?;
    let map = flows(&pins)?;
    let [(open, open_server), (half, half_server), (over, over_server)] = &mut pairs[..] else {
        anyhow::bail!("three flows")
    };
    finish(half)?;
    expect_ending(half_server, Ending::Eof)?;
    finish(over)?;
    expect_ending(over_server, Ending::Eof)?;
    finish(over_server)?;
    expect_ending(over, Ending::Eof)?;
    wait_for("two flows to be forgotten", LONG, || (map.count().ok()? == 2).then_some(()))?;
    // The one that rests, with no bound to that, is there.
    transfer(open, open_server, 2, 1000)
}

/// Flows that a crowd is, and the variable for another number.
const CROWD: u32 = 20_000;
const OTHER_CROWD: &str = "SNISPLICE_TEST_CROWD";
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

#[test]
fn a_crowd_is_looked_at_in_small_parts() -> Result<()> {
    let size = std::env::var(OTHER_CROWD).map_or(Ok(CROWD), |size| size.parse())?;
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s").timeout("idle", "2s");
    let mut site = RawSite::start(&config)?;
    kill(&mut site.daemon)?;
    let map = flows(&pins)?;
    let words = WordMap::open(&pins.pinned(WATCH)?, 1, 1)?;
    let servers = WordMap::open(&pins.pinned(SERVERS)?, 1, SERVER_WORDS)?;
    let ports = u32::try_from(PORTS.count())?;
    let begun = Instant::now();
    for number in 0..size {
        let [client, server] =
            crowd(number / ports, u16::try_from(u32::from(*PORTS.start()) + number % ports)?);
        for (key, entry) in [client, server] {
            map.put(&key.to_words(), &entry.to_words())?;
        }
    }
    println!("{size} flows made in {:?}", begun.elapsed());
    let count = size.div_ceil(ports);
    for slot in 0..count {
        let [_, (key, _)] = crowd(slot, *PORTS.start());
        let all = Server::of(&key).and(&Server::of(&Server::of(&key).key(*PORTS.end())));
        servers.put(&[slot], &all.to_words())?;
    }
    words.put(&[watch::SERVERS], &[count])?;
    let word = |index| words.get(&[index]).map(|value| value.first().copied().unwrap_or(0));
    // Some round has gone over all of them, and removed them; another one finds nothing.
    let begun = Instant::now();
    wait_for("a round", Duration::from_secs(120), || (map.count().ok()? == 0).then_some(()))?;
    let longest = Duration::from_nanos(word(watch::LONGEST)?.into());
    println!("{size} flows looked at and forgotten in {:?}, at most {longest:?} at a time", begun.elapsed());
    ensure!(longest < Duration::from_millis(20), "{longest:?} at a time");
    Ok(())
}

/// The entries of a flow that nobody uses.
fn crowd(server: u32, port: u16) -> [(Key, Entry); 2] {
    let numbered = |address: IpAddr| {
        let [a, b, c, _] = address_of(address);
        [a, b, c, (0x6440_0000 + server).to_be()]
    };
    let edge: Address = address_of(EDGE_IPV4);
    let (client, backend) = (numbered(CLIENT_IPV4), numbered(BACKEND_IPV4));
    let key = |source, target, source_port: u16, target_port: u16| Key {
        source,
        target,
        source_port: source_port.to_be(),
        target_port: target_port.to_be(),
        padding: 0,
    };
    let keys = [key(client, edge, port, 443), key(backend, edge, 443, port)];
    let entry = |leg: u8, other: &Key| Entry {
        state: state::FORWARD,
        leg,
        source: other.target,
        target: other.source,
        source_port: other.target_port,
        target_port: other.source_port,
        ..Entry::default()
    };
    let [one, other] = keys;
    [(one, entry(0, &other)), (other, entry(1, &one))]
}
