//! The way out of this host becomes too narrow for the packets of a flow: their sender is told.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use harness::MIB;
use harness::command::run;
use harness::daemon::{Config, Datapath, Launch};
use harness::deadline::PATIENCE;
use harness::netns::{BACKEND_IPV6, CLIENT_IPV4, EDGE_IPV4, EDGE_IPV6, Namespace, Topology};
use harness::peers::raw::{RawListener, transfer};
use harness::pins::Pins;

use crate::{counted, site};

/// What a namespace believes that the way to an address takes at most; 0: what its interface does.
fn path_mtu(namespace: &Namespace, to: IpAddr) -> Result<u32> {
    let route = run(namespace.command("ip").args(["route", "get", &to.to_string()]), &[])?.success()?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).map_or(Ok(0), str::parse)?)
}

/// Shrinks the way of the flow from `from` on while it is used.
fn shrink(
    (edge, interface): (&Namespace, &str),
    (from, to): (&mut TcpStream, &mut TcpStream),
    mtu: u32,
) -> Result<()> {
    transfer(from, to, 2, MIB)?;
    edge.ip_batch(&format!("link set {interface} mtu {mtu}\n"))?;
    transfer(from, to, 3, 16 * MIB)
}

#[test]
fn a_client_learns_that_the_way_to_the_server_is_narrow() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    assert_eq!(path_mtu(&site.net.client, EDGE_IPV4)?, 0);
    shrink((&site.net.edge, "backend"), (&mut client, &mut server), 1300)?;
    assert_eq!(path_mtu(&site.net.client, EDGE_IPV4)?, 1300);
    let after = counted(&site.daemon)?;
    assert!(after.too_big > 0 && after.forwarded_bytes >= 17 * MIB, "{after:?}");
    site.daemon.stop()
}

#[test]
fn a_server_learns_it_too_also_if_it_sends_packets_one_by_one() -> Result<()> {
    let site = site()?;
    site.net.backend.ip_batch("link set edge gso_max_segs 1\n")?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    shrink((&site.net.edge, "client"), (&mut server, &mut client), 1000)?;
    assert_eq!(path_mtu(&site.net.backend, "10.2.0.1".parse()?)?, 1000);
    let after = counted(&site.daemon)?;
    assert!(after.too_big > 0 && after.forwarded_bytes >= 17 * MIB, "{after:?}");
    site.daemon.stop()
}

#[test]
fn nobody_has_to_be_there_to_tell_a_client_by_ipv6() -> Result<()> {
    let server: SocketAddr = (BACKEND_IPV6, 9443).into();
    let net = Topology::create()?;
    let pins = Pins::create()?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config = Config::new()
        .listen_to("six", "[::]:443", "six")
        .upstream("six", server)
        .datapath(Datapath::Packet)
        .packet(&pins, "0s");
    let mut daemon = Launch::new()?.start(&net.edge, &config)?;
    let mut client = net.client.connect((EDGE_IPV6, 443).into())?;
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    daemon.signal(libc::SIGKILL)?;
    ensure!(daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    shrink((&net.edge, "backend"), (&mut client, &mut server), 1400)?;
    assert_eq!(path_mtu(&net.client, EDGE_IPV6)?, 1400);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let after = counted(&daemon)?;
    assert!(after.too_big > 0 && after.forwarded_bytes >= 17 * MIB, "{after:?}");
    Ok(())
}

#[test]
fn a_way_that_is_as_wide_as_before_costs_no_word() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 16 * MIB)?;
    transfer(&mut server, &mut client, 3, 16 * MIB)?;
    assert_eq!(counted(&site.daemon)?.too_big, 0);
    assert_eq!(path_mtu(&site.net.backend, CLIENT_IPV4)?, 0);
    site.daemon.stop()
}
