//! Connection tracking does not see the packets of a flow without sockets: it has to forget the flow. NAT of this host would not translate
//! them: such a flow stays.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{BACKEND_IPV6, EDGE_IPV6, Topology, edge};
use harness::peers::raw::{RawListener, transfer};
use harness::pins::Pins;
use harness::site::{POLLING_PORT, RawSite, config, polling_hello};

use crate::refusals::stays;
use crate::{counted, site};

#[test]
fn what_is_known_of_a_flow_is_removed_when_it_leaves_its_sockets() -> Result<()> {
    let pins = Pins::create()?;
    // Offloaded by order, after they were seen to be tracked.
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1h"))?;
    site.net.edge.track_connections()?;
    let (mut client, mut server) = site.flow()?;
    let connections = [
        vec![format!("sport={}", client.local_addr()?.port()), "dport=443".to_owned()],
        vec![format!("sport={}", server.peer_addr()?.port()), "dport=10943".to_owned()],
    ];
    for words in &connections {
        ensure!(site.net.edge.tracked(words)?.len() == 1, "{words:?} is not tracked");
    }
    site.daemon.order("offload", &[site.daemon.id_of(client.local_addr()?)?])?;
    site.daemon.wait_for_packets(1)?;
    wait_for("the flow to be forgotten", PATIENCE, || {
        let left = connections.iter().filter_map(|words| site.net.edge.tracked(words).ok());
        left.flatten().next().is_none().then_some(())
    })?;
    transfer(&mut client, &mut server, 1, 1_000_000)?;
    transfer(&mut server, &mut client, 2, 1_000_000)?;
    for words in &connections {
        ensure!(site.net.edge.tracked(words)?.is_empty(), "{words:?} is tracked again");
    }
    assert_eq!(counted(&site.daemon)?.untracked, 2);
    Ok(())
}

#[test]
fn connections_by_ipv6_are_removed_as_well() -> Result<()> {
    let server = (BACKEND_IPV6, 9443).into();
    let net = Topology::create()?;
    net.edge.track_connections()?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config = harness::daemon::Config::new()
        .listen_to("six", "[::]:443", "six")
        .upstream("six", server)
        .datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let mut client = net.client.connect((EDGE_IPV6, 443).into())?;
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1)?;
    daemon.wait_for_packets(1)?;
    let port = client.local_addr()?.port();
    wait_for("two entries to be removed", PATIENCE, || {
        (counted(&daemon).ok()?.untracked == 2).then_some(())
    })?;
    transfer(&mut client, &mut server, 1, 1_000_000)?;
    let left = net.edge.tracked(&[format!("sport={port}")]).context("listing them")?;
    ensure!(left.is_empty(), "{left:?}");
    daemon.stop()
}

#[test]
fn where_nothing_is_tracked_nothing_happens() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    assert_eq!(counted(&site.daemon)?.untracked, 0);
    site.daemon.stop()
}

/// Packets at the interface do not bear the addresses of the sockets.
#[test]
fn a_flow_whose_client_was_redirected_on_this_host_keeps_its_sockets() -> Result<()> {
    let site = site()?;
    site.net.edge.redirect(8443, 443)?;
    let mut client = site.net.client.connect(edge(8443))?;
    client.write_all(&polling_hello())?;
    let server = site.polling.accept_after(&polling_hello())?;
    stays(&site.daemon, (client, server), "unseen")?;
    site.daemon.stop()
}

#[test]
fn a_flow_whose_server_sees_another_port_keeps_its_sockets() -> Result<()> {
    let site = site()?;
    site.net.edge.masquerade(POLLING_PORT, 20_000)?;
    let (client, server) = site.flow()?;
    ensure!(server.peer_addr()?.port() == 20_000, "the rule does nothing");
    stays(&site.daemon, (client, server), "unseen")?;
    site.daemon.stop()
}
