//! Packets that a program has begun to look at while their connection was being handed over, and looks at to the end when that is over.

use std::fs;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Namespace, WordMap, unsent};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{RawSite, config};
use proxy_common::abi::packet::{ENTRY_WORDS, FLOWS, KEY_WORDS, state};

/// The word of an entry whose bytes are its state, its leg and two others, and that of its hand-over.
const STATE: usize = 0;
const HANDOVER: usize = 4;

/// Packets that have come in by an interface.
fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    let all = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = all.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    Ok(line.context("no such interface")?.split_whitespace().nth(1).context("no number")?.parse()?)
}

/// Such a program has read that the connection is being handed over, and finds no hand-over. The sockets are gone: if the packet came to
/// the host, its answer would be a reset.
#[test]
fn a_packet_that_misses_its_hand_over_is_dropped_and_comes_again() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "0s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    transfer(&mut server, &mut client, 2, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let entries = WordMap::open(&pins.pinned(FLOWS)?, KEY_WORDS, ENTRY_WORDS)?;
    let mut found = entries.keys()?.into_iter().filter_map(|key| Some((entries.get(&key).ok()?, key)));
    let is_clients = |entry: &[u32]| entry.first().is_some_and(|word| word.to_ne_bytes()[1] == 0);
    let (settled, key) = found.find(|(entry, _)| is_clients(entry)).context("no entry")?;

    // As the program has read it before.
    let mut armed = settled.clone();
    let [_, leg, scales @ ..] = settled.get(STATE).context("no state")?.to_ne_bytes();
    *armed.get_mut(STATE).context("no state")? =
        u32::from_ne_bytes([state::ARMED, leg, scales[0], scales[1]]);
    *armed.get_mut(HANDOVER).context("no hand-over")? = 0;
    entries.put(&key, &armed)?;
    let before = received(&site.net.edge, "client")?;
    client.write_all(b"late")?;
    wait_for("a packet to come again", PATIENCE, || {
        (received(&site.net.edge, "client").ok()? >= before + 2).then_some(())
    })?;
    ensure!(unsent(&client)? == 4, "somebody has acknowledged it");
    entries.put(&key, &settled)?;
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes)?;
    ensure!(&bytes == b"late", "{bytes:?}");
    transfer(&mut server, &mut client, 3, 1000)?;
    drop((client, server));
    site.daemon.stop()?;
    drop(pins);
    Ok(())
}
