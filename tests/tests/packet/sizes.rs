//! Ways that take packets of different sizes.

use anyhow::{Result, ensure};
use harness::MIB;
use harness::daemon::{Config, Datapath, Launch};
use harness::netns::{BACKEND_IPV6, EDGE_IPV6};
use harness::peers::raw::{RawListener, transfer};
use harness::site::RawSite;

use crate::refusals::wait_for_reason;
use crate::{counted, site};

fn widen(site: &RawSite, side: &str) -> Result<()> {
    let far = if side == "client" { &site.net.client } else { &site.net.backend };
    site.net.edge.ip_batch(&format!("link set {side} mtu 9000\n"))?;
    far.ip_batch("link set edge mtu 9000\n")
}

#[test]
fn clients_with_jumbo_frames_are_told_to_send_less_after_the_first() -> Result<()> {
    let site = site()?;
    widen(&site, "client")?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    wait_for_reason(&site.daemon, "segment_size")?;
    transfer(&mut client, &mut server, 2, MIB)?;
    site.daemon.wait_for_log("told to send smaller segments")?;
    let (mut second, mut its_server) = site.flow()?;
    transfer(&mut second, &mut its_server, 3, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let before = counted(&site.daemon)?;
    transfer(&mut second, &mut its_server, 4, 4 * MIB)?;
    transfer(&mut its_server, &mut second, 5, 4 * MIB)?;
    let after = counted(&site.daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 8 * MIB, "{before:?} {after:?}");
    drop((client, server, second, its_server));
    site.daemon.stop()
}

#[test]
fn servers_with_jumbo_frames_are_told_to_send_less_at_once() -> Result<()> {
    let site = site()?;
    widen(&site, "backend")?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let before = counted(&site.daemon)?;
    transfer(&mut client, &mut server, 2, 4 * MIB)?;
    transfer(&mut server, &mut client, 3, 4 * MIB)?;
    let after = counted(&site.daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 8 * MIB, "{before:?} {after:?}");
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn so_are_those_of_ipv6() -> Result<()> {
    let net = harness::netns::Topology::create()?;
    for (near, far) in [("client", &net.client), ("backend", &net.backend)] {
        let mtu = if near == "client" { 1400 } else { 9000 };
        net.edge.ip_batch(&format!("link set {near} mtu {mtu}\n"))?;
        far.ip_batch(&format!("link set edge mtu {mtu}\n"))?;
    }
    let server = (BACKEND_IPV6, 9443).into();
    let listener = RawListener::bind(&net.backend, server)?;
    let config =
        Config::new().listen_to("six", "[::]:443", "six").upstream("six", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let (mut client, mut server) = (net.client.connect((EDGE_IPV6, 443).into())?, listener.accept()?);
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    transfer(&mut server, &mut client, 2, 4 * MIB)?;
    transfer(&mut client, &mut server, 3, 4 * MIB)?;
    drop((client, server));
    daemon.stop()
}
