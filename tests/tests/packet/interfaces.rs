//! Somebody configures the interfaces anew while connections are offloaded, as systemd-networkd and its like do.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use harness::MIB;
use harness::command::run;
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::Namespace;
use harness::peers::busy;
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{RawSite, config};
use harness::wire::Guard;

use crate::{counted, site};

fn begin(site: &RawSite) -> Result<(TcpStream, TcpStream)> {
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    Ok((client, server))
}

fn tc(edge: &Namespace, arguments: &str) -> Result<()> {
    run(edge.command("tc").args(arguments.split(' ')), b"")?.success().map(drop)
}

/// Does `work` while bytes go both ways, all of which must arrive past the sockets.
fn while_busy(
    site: &RawSite,
    flow: &(TcpStream, TcpStream),
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = counted(&site.daemon)?;
    let bytes = busy::while_busy(flow, work)?;
    let after = counted(&site.daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 2 * bytes, "{before:?} {after:?}");
    Ok(())
}

#[test]
fn addresses_and_routes_that_are_removed_and_made_again_break_no_connection() -> Result<()> {
    let site = site()?;
    let flow = begin(&site)?;
    let before = counted(&site.daemon)?;
    while_busy(&site, &flow, || {
        for (interface, address, peer) in
            [("client", "10.1.0.1", "10.1.0.2"), ("backend", "10.2.0.1", "10.2.0.2")]
        {
            site.net.edge.ip_batch(&format!("address flush dev {interface}\n"))?;
            wait_for("packets without a route", PATIENCE, || {
                (counted(&site.daemon).ok()?.no_route > before.no_route).then_some(())
            })?;
            site.net.edge.ip_batch(&format!(
                "address add {address}/24 dev {interface}\nroute replace {peer}/32 dev {interface} src {address} mtu 1500\n"
            ))?;
        }
        Ok(())
    })?;
    site.daemon.stop()
}

#[test]
fn links_that_go_down_and_up_and_queues_that_are_replaced_break_no_connection() -> Result<()> {
    let site = site()?;
    let flow = begin(&site)?;
    while_busy(&site, &flow, || {
        for interface in ["client", "backend"] {
            site.net.edge.ip_batch(&format!("link set {interface} down\nlink set {interface} up\n"))?;
            tc(&site.net.edge, &format!("qdisc replace dev {interface} root pfifo limit 500"))?;
            tc(&site.net.edge, &format!("qdisc del dev {interface} root"))?;
            site.net
                .edge
                .ip_batch(&format!("link set {interface} mtu 1400\nlink set {interface} mtu 1500\n"))?;
        }
        Ok(())
    })?;
    site.daemon.stop()
}

/// The connection goes on, new ones are offloaded, and the guard says that its interface has gone and comes again with its name.
#[test]
fn an_interface_that_is_renamed_keeps_its_connections() -> Result<()> {
    for attach in ["auto", "clsact"] {
        let pins = Pins::create()?;
        let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
        let config = config.packet_line(&format!("attach = \"{attach}\"")).guard("client", "");
        let site = RawSite::start(&config)?;
        Guard::attached(&site.daemon, "client")?;
        let flow = begin(&site)?;
        while_busy(&site, &flow, || {
            // Its addresses stay; with IPv4 routes go with the link and come with it.
            site.net.edge.ip_batch("link set client down\nlink set client name lan0\nlink set lan0 up\n")?;
            site.daemon.wait_for_log("the interface has gone").map(drop)
        })?;
        let guard = Guard::of(&site.daemon)?;
        ensure!(
            guard.mode("client").is_none() && format!("{guard:?}").contains("there is no such"),
            "{guard:?}"
        );
        let (mut client, mut server) = site.flow()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        site.daemon.wait_for_packets(2)?;
        site.net.edge.ip_batch("link set lan0 down\nlink set lan0 name client\nlink set client up\n")?;
        Guard::attached(&site.daemon, "client")?;
        transfer(&mut client, &mut server, 2, MIB)?;
        transfer(&mut server, &mut client, 3, MIB)?;
        let log = site.daemon.log();
        ensure!(!log.iter().any(|line| line.contains("another program has")), "{log:#?}");
        drop((flow, client, server));
        site.daemon.stop()?;
    }
    Ok(())
}
