//! Packets of offloaded connections that do not look like all others: they are forwarded, and no connection is reset for them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use harness::MIB;
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::impair::Impaired;
use harness::netns::{BACKEND_IPV6, EDGE_IPV6, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::site::{RawSite, polling_hello};
use harness::wire::send_ip_options;

use crate::{counted, site};

/// Bytes both ways by offloaded connections, and an end in order. How many bytes a packet had in the mean.
fn goes_on(daemon: &Daemon, client: &mut TcpStream, server: &mut TcpStream) -> Result<u64> {
    let before = counted(daemon)?;
    transfer(client, server, 2, 8 * MIB)?;
    transfer(server, client, 3, 8 * MIB)?;
    let after = counted(daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 16 * MIB, "{before:?} {after:?}");
    finish(client)?;
    expect_ending(server, Ending::Eof)?;
    finish(server)?;
    expect_ending(client, Ending::Eof)?;
    let access = daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "eof" && access.datapath.as_deref() == Some("packet"), "{access:?}");
    Ok((after.forwarded_bytes - before.forwarded_bytes) / (after.forwarded - before.forwarded))
}

/// A connection that is offloaded, and meets `change` after that.
fn changed(change: impl FnOnce(&RawSite, &TcpStream) -> Result<()>) -> Result<u64> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    change(&site, &client)?;
    let mean = goes_on(&site.daemon, &mut client, &mut server)?;
    site.daemon.stop()?;
    Ok(mean)
}

/// Frames of both ends begin to bear a priority. `beside`: the card gives the tag beside the frame, and not in it.
fn prioritized(beside: bool) -> Result<()> {
    let mut tagged = Vec::new();
    changed(|site, _| {
        for far in [&site.net.client, &site.net.backend] {
            ensure!(far.set_feature("edge", "tx-vlan-hw-insert", beside)? == beside, "tx-vlan-hw-insert");
        }
        tagged.push(Impaired::tagged(&site.net.client, "edge")?);
        tagged.push(Impaired::tagged(&site.net.backend, "edge")?);
        Ok(())
    })
    .map(drop)
}

#[test]
fn frames_that_begin_to_bear_a_priority_and_no_vlan_are_forwarded() -> Result<()> {
    prioritized(true)
}

#[test]
fn so_they_are_if_the_card_leaves_the_tag_in_them() -> Result<()> {
    prioritized(false)
}

#[test]
fn clients_whose_frames_always_bear_a_priority_are_offloaded() -> Result<()> {
    let site = site()?;
    let _tagged = Impaired::tagged(&site.net.client, "edge")?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    goes_on(&site.daemon, &mut client, &mut server)?;
    site.daemon.stop()
}

#[test]
fn options_of_ip_are_taken_off() -> Result<()> {
    changed(|_, client| Ok(send_ip_options(client)?)).map(drop)
}

#[test]
fn a_client_that_always_sends_options_of_ip_is_offloaded() -> Result<()> {
    let site = site()?;
    let hello = polling_hello();
    let mut client = site.connect()?;
    send_ip_options(&client)?;
    client.write_all(&hello)?;
    let mut server = site.polling.accept_after(&hello)?;
    site.daemon.wait_for_packets(1)?;
    goes_on(&site.daemon, &mut client, &mut server)?;
    site.daemon.stop()
}

#[test]
fn packets_that_the_kernel_joins_to_lists_are_forwarded_whole() -> Result<()> {
    let mean = changed(|site, _| {
        for (near, far) in [("client", &site.net.client), ("backend", &site.net.backend)] {
            // Packets as a card has them: one by one, and joined on their way in.
            for feature in ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"] {
                ensure!(!far.set_feature("edge", feature, false)?, "{feature}");
            }
            ensure!(site.net.edge.set_feature(near, "rx-gro", true)?, "no GRO");
            ensure!(site.net.edge.set_feature(near, "rx-gro-list", true)?, "no lists");
            // As cards are, which take no list as it is.
            ensure!(!site.net.edge.set_feature(near, "tx-gso-list", false)?, "lists");
        }
        Ok(())
    })?;
    ensure!(mean > 1500, "no packets were joined: {mean} bytes in each");
    Ok(())
}

/// Packets of up to 190 kB, which have an extension header.
fn big(interfaces: &[(&str, bool)]) -> Result<()> {
    let (net, server): (_, SocketAddr) = (Topology::create()?, (BACKEND_IPV6, 9443).into());
    for (interface, is_edge) in interfaces {
        let lines = format!("link set {interface} gso_max_size 190000 gro_max_size 190000\n");
        if *is_edge {
            net.edge.ip_batch(&lines)?;
        } else {
            net.client.ip_batch(&lines)?;
            net.backend.ip_batch(&lines)?;
        }
    }
    let listener = RawListener::bind(&net.backend, server)?;
    let config =
        Config::new().listen_to("six", "[::]:443", "six").upstream("six", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let (mut client, mut server) = (net.client.connect((EDGE_IPV6, 443).into())?, listener.accept()?);
    transfer(&mut client, &mut server, 1, 32 * MIB)?;
    daemon.wait_for_packets(1)?;
    let mean = goes_on(&daemon, &mut client, &mut server)?;
    println!("{mean} bytes in a packet");
    daemon.stop()
}

#[test]
fn packets_of_ipv6_that_are_longer_than_their_header_can_say_are_forwarded() -> Result<()> {
    big(&[("edge", false)])
}

#[test]
fn so_they_are_to_interfaces_that_take_them_as_they_are() -> Result<()> {
    big(&[("edge", false), ("client", true), ("backend", true)])
}
