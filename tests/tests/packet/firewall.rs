//! A firewall on this host that asks connection tracking. It sees no packet of an offloaded connection, and has to let it in again when it
//! is restored.

use std::fs;
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use harness::MIB;
use harness::daemon::{Daemon, Datapath};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Firewall, Namespace};
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};

/// Connections of a test.
const FLOWS: usize = 3;

pub(crate) type Flow = (TcpStream, TcpStream);

/// Sets a switch of connection tracking.
fn track(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    namespace.enter(|| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_{name}");
        fs::write(&path, value).with_context(|| format!("writing {path}"))
    })
}

/// Much at once in both directions, and all of it arrives.
pub(crate) fn exchange(flows: &mut [Flow], bytes: u64) -> Result<()> {
    std::thread::scope(|scope| {
        let mut both = Vec::new();
        for (client, server) in flows {
            let (mut from_client, mut to_client) = (client.try_clone()?, client.try_clone()?);
            let (mut to_server, mut from_server) = (server.try_clone()?, server.try_clone()?);
            both.push(scope.spawn(move || transfer(&mut from_client, &mut to_server, 1, bytes)));
            both.push(scope.spawn(move || transfer(&mut from_server, &mut to_client, 2, bytes)));
        }
        both.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("an end panicked"))?)
    })
}

fn ids(daemon: &Daemon) -> Result<Vec<u64>> {
    Ok(daemon.flows()?.iter().map(|flow| flow.id).collect())
}

fn end_in_order(daemon: &Daemon, flows: Vec<Flow>) -> Result<()> {
    for (mut client, mut server) in flows {
        finish(&client)?;
        expect_ending(&mut server, Ending::Eof)?;
        finish(&server)?;
        expect_ending(&mut client, Ending::Eof)?;
        let access = daemon.wait_for_access(client.local_addr()?)?;
        ensure!(access.reason == "eof", "{access:?}");
    }
    Ok(())
}

/// Connections are offloaded in the middle of a transfer, restored, and offloaded again. `while_away`: what happens to the firewall while
/// it does not see them.
fn there_and_back(
    firewall: Firewall,
    loose: &str,
    while_away: impl Fn(&Namespace) -> Result<()>,
) -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "300ms"))?;
    let edge = &site.net.edge;
    edge.raise(firewall)?;
    track(edge, "be_liberal", "0")?;
    track(edge, "loose", loose)?;
    let mut flows = (0..FLOWS).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    exchange(&mut flows, 16 * MIB)?;
    site.daemon.wait_for_packets(FLOWS)?;
    exchange(&mut flows, MIB)?;
    while_away(edge)?;
    site.daemon.order("restore", &ids(&site.daemon)?)?;
    exchange(&mut flows, 4 * MIB)?;
    site.daemon.order("offload", &ids(&site.daemon)?)?;
    site.daemon.wait_for_packets(FLOWS)?;
    exchange(&mut flows, MIB)?;
    site.daemon.order("restore", &ids(&site.daemon)?)?;
    // The peers have to speak first now and then.
    for (client, server) in &mut flows {
        transfer(client, server, 3, 1000)?;
        transfer(server, client, 4, 1000)?;
    }
    end_in_order(&site.daemon, flows)?;
    site.daemon.stop()
}

#[test]
fn a_firewall_that_drops_what_is_invalid_breaks_no_connection() -> Result<()> {
    there_and_back(Firewall::default(), "1", |_| Ok(()))
}

#[test]
fn one_that_does_so_before_routing_breaks_none() -> Result<()> {
    there_and_back(Firewall { before_routing: true, output: true }, "1", |_| Ok(()))
}

#[test]
fn one_that_takes_up_no_connection_in_the_middle_breaks_none() -> Result<()> {
    there_and_back(Firewall { before_routing: true, output: false }, "0", |_| Ok(()))
}

#[test]
fn its_rules_may_be_loaded_anew_while_a_connection_is_offloaded() -> Result<()> {
    there_and_back(Firewall::default(), "1", |edge| {
        edge.remove_rules()?;
        edge.raise(Firewall { before_routing: true, output: false })
    })
}

#[test]
fn its_rules_may_be_loaded_anew_while_the_sockets_drain() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "0s"))?;
    let edge = &site.net.edge;
    edge.raise(Firewall::default())?;
    let mut flows = (0..FLOWS).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| exchange(&mut flows, 32 * MIB));
        for _ in 0..4 {
            edge.remove_rules()?;
            edge.raise(Firewall::default())?;
        }
        busy.join().map_err(|_| anyhow::anyhow!("an end panicked"))?
    })?;
    wait_for("the connections to be offloaded", PATIENCE, || site.daemon.wait_for_packets(FLOWS).ok())?;
    end_in_order(&site.daemon, flows)?;
    site.daemon.stop()
}
