//! More flows to one server than there are ports, by several addresses of this host.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Config, Datapath, Launch};
use harness::netns::{Topology, backend};
use harness::peers::raw::{RawListener, transfer};
use harness::site::{POLLING_PORT, RawSite, WEB_PORT, config};

use crate::counted;
use crate::refusals::wait_for_reason;

/// Ports and addresses.
const PORTS: usize = 3;
const ADDRESSES: [&str; 3] = ["10.2.0.1", "10.2.0.11", "10.2.0.12"];

fn narrow() -> Config {
    let sources = ADDRESSES.map(|address| format!("\"{address}\"")).join(", ");
    config()
        .datapath(Datapath::Packet)
        .packet_line("ports = \"61000-61002\"")
        .packet_line(&format!("sources = [{sources}]"))
}

fn site() -> Result<RawSite> {
    let net = Topology::create()?;
    let more: String =
        ADDRESSES.iter().skip(1).map(|address| format!("address add {address}/24 dev backend\n")).collect();
    net.edge.ip_batch(&more)?;
    let polling = RawListener::bind(&net.backend, backend(POLLING_PORT))?;
    let web = RawListener::bind(&net.backend, backend(WEB_PORT))?;
    let daemon = Launch::new()?.start(&net.edge, &narrow())?;
    Ok(RawSite { daemon, polling, web, net })
}

#[test]
fn a_server_has_as_many_flows_as_ports_for_each_address_and_the_next_one_is_copied() -> Result<()> {
    let site = site()?;
    let mut flows = Vec::new();
    for _ in 0..PORTS * ADDRESSES.len() {
        let (mut client, mut server) = site.flow()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        flows.push((client, server));
    }
    site.daemon.wait_for_packets(flows.len())?;
    let near = flows.iter().map(|(_, server)| server.peer_addr()).collect::<std::io::Result<HashSet<_>>>()?;
    assert_eq!(near.len(), flows.len(), "each has a way of its own: {near:?}");
    let addresses: HashSet<IpAddr> = near.iter().map(std::net::SocketAddr::ip).collect();
    assert_eq!(addresses.len(), ADDRESSES.len(), "{addresses:?}");

    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    wait_for_reason(&site.daemon, "no_port")?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    let port = server.peer_addr()?.port();
    ensure!(!(61_000..=61_002).contains(&port), "{port}");
    let before = counted(&site.daemon)?;
    for (client, server) in &mut flows {
        transfer(client, server, 3, 20_000)?;
        transfer(server, client, 4, 20_000)?;
    }
    let after = counted(&site.daemon)?;
    let carried = 40_000 * u64::try_from(flows.len())?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= carried, "{before:?} {after:?}");
    // A flow that ends gives its place back, when its last packets are over.
    drop(flows.pop());
    drop((client, server));
    site.daemon.wait_for_flow("a flow less", |_| true)?;
    site.daemon.wait_for_packets(flows.len())?;
    drop(flows);
    site.daemon.stop()
}

#[test]
fn an_address_that_is_not_on_this_host_is_found_at_the_start() -> Result<()> {
    let net = Topology::create()?;
    let config = config().datapath(Datapath::Packet).packet_line("sources = [\"10.2.0.1\", \"10.2.0.99\"]");
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let status = daemon.status()?.datapaths.packet;
    let reason = status.reason.context("no reason")?;
    ensure!(!status.available && reason.contains("10.2.0.99 is no address of this host"), "{reason}");
    daemon.stop()
}
