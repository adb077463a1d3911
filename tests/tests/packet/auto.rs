//! `auto` on a host that has a `[packet]` section: flows leave their sockets if they can, and say why if they cannot.

use anyhow::Result;
use harness::daemon::{Access, Config, Daemon, Datapath, Launch};
use harness::netns::{BACKEND_IPV4, EDGE_IPV6, Topology, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::site::{POLLING_PORT, RawSite, config};
use std::net::{SocketAddr, TcpStream};

use crate::refusals::wait_for_reason;

const SERVER_PORT: u16 = 9443;

fn end(daemon: &Daemon, (client, mut server): (TcpStream, TcpStream)) -> Result<Access> {
    let (mut client, address) = (client.try_clone()?, client.local_addr()?);
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    daemon.wait_for_access(address)
}

#[test]
fn auto_prefers_a_flow_without_sockets() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Auto).packet(&pins, "50ms"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 1_000_000)?;
    transfer(&mut server, &mut client, 3, 1_000_000)?;
    let access = end(&site.daemon, (client, server))?;
    assert_eq!((access.datapath.as_deref(), access.reason.as_str()), (Some("packet"), "eof"), "{access:?}");
    site.daemon.stop()
}

#[test]
fn without_the_section_auto_loads_nothing() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Auto))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_flow("a spliced flow", |flow| flow.datapath.as_deref() == Some("sockmap"))?;
    let status = site.daemon.status()?;
    assert!(!status.datapaths.packet.available && status.packet.is_none(), "{:?}", status.datapaths);
    let access = end(&site.daemon, (client, server))?;
    assert_eq!(access.datapath.as_deref(), Some("sockmap"), "{access:?}");
    site.daemon.stop()
}

/// What cannot leave its sockets is spliced, says so, and loses nothing on its way there.
fn is_spliced(daemon: &Daemon, mut flow: (TcpStream, TcpStream), reason: &str, text: &str) -> Result<()> {
    let (client, server) = (&mut flow.0, &mut flow.1);
    transfer(client, server, 1, 1000)?;
    wait_for_reason(daemon, reason)?;
    transfer(client, server, 2, 100_000)?;
    let listed =
        daemon.wait_for_flow("a spliced flow", |flow| flow.datapath.as_deref() == Some("sockmap"))?;
    assert!(listed.obstacle.as_ref().is_some_and(|obstacle| obstacle.contains(text)), "{listed:?}");
    let refused = daemon.command("offload", &[&listed.id.to_string()])?;
    assert!(refused.code != Some(0) && refused.stderr.contains(text), "{refused:?}");
    transfer(client, server, 3, 1_000_000)?;
    transfer(server, client, 4, 1_000_000)?;
    let access = end(daemon, flow)?;
    assert_eq!((access.datapath.as_deref(), access.reason.as_str()), (Some("sockmap"), "eof"), "{access:?}");
    // A hello may have come before.
    assert!(access.bytes_in >= 1_101_000 && access.bytes_out == 1_000_000, "{access:?}");
    Ok(())
}

fn to_one(net: &Topology, server: SocketAddr, pins: &Pins) -> Result<Daemon> {
    let config = Config::new().listen_to("one", "[::]:443", "one").upstream("one", server);
    Launch::new()?.start(&net.edge, &config.datapath(Datapath::Auto).packet(pins, "50ms"))
}

#[test]
fn a_flow_that_can_never_leave_is_spliced() -> Result<()> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let server = (BACKEND_IPV4, SERVER_PORT).into();
    let listener = RawListener::bind(&net.backend, server)?;
    let daemon = to_one(&net, server, &pins)?;
    let flow = (net.client.connect((EDGE_IPV6, 443).into())?, listener.accept()?);
    is_spliced(&daemon, flow, "address_families", "IPv6")?;
    daemon.stop()
}

#[test]
fn a_flow_to_a_server_on_this_host_is_spliced() -> Result<()> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let server = edge(SERVER_PORT);
    let listener = RawListener::bind(&net.edge, server)?;
    let daemon = to_one(&net, server, &pins)?;
    let flow = (net.client.connect(edge(443))?, listener.accept()?);
    is_spliced(&daemon, flow, "same_host", "on this host")?;
    daemon.stop()
}

/// Packets that have other addresses than the sockets may pass, and are waited for, but not for ever.
#[test]
fn a_flow_whose_obstacle_does_not_pass_is_spliced() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Auto).packet(&pins, "50ms"))?;
    site.net.edge.masquerade(POLLING_PORT, 20_000)?;
    let (mut client, mut server) = site.legacy_flow()?;
    transfer(&mut client, &mut server, 3, 1000)?;
    wait_for_reason(&site.daemon, "unseen")?;
    let of_sockmap = || {
        let listed = site.daemon.flows().ok()?;
        listed.iter().any(|flow| flow.datapath.as_deref() == Some("sockmap")).then_some(())
    };
    harness::deadline::wait_for("a spliced flow", 3 * harness::deadline::PATIENCE, of_sockmap)?;
    transfer(&mut server, &mut client, 1, 100_000)?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    let access = end(&site.daemon, (client, server))?;
    assert_eq!(access.datapath.as_deref(), Some("sockmap"), "{access:?}");
    site.daemon.stop()
}
