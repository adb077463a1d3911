//! One flow at a time.

use std::net::TcpStream;
use std::time::Duration;

use crate::{counted, site};
use anyhow::Result;
use harness::MIB;
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::deadline::dawdle;
use harness::netns::{BACKEND_IPV6, CLIENT_IPV4, EDGE_IPV6, Topology, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, reset, transfer};
use harness::site::{RawSite, config};

const SERVER_PORT: u16 = 9443;

#[test]
fn a_flow_leaves_its_sockets_and_its_bytes_arrive() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let before = counted(&site.daemon)?;
    transfer(&mut client, &mut server, 2, 16 * MIB)?;
    transfer(&mut server, &mut client, 3, 16 * MIB)?;
    let after = counted(&site.daemon)?;
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 32 * MIB, "{before:?} {after:?}");
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    transfer(&mut server, &mut client, 4, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("packet")), "{access:?}");
    assert_eq!(access.bytes_out, 17 * MIB, "{access:?}");
    site.daemon.stop()
}

#[test]
fn flows_by_ipv6_leave_their_sockets_too() -> Result<()> {
    let server: std::net::SocketAddr = (BACKEND_IPV6, SERVER_PORT).into();
    let net = Topology::create()?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config =
        Config::new().listen_to("six", "[::]:443", "six").upstream("six", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    check(&daemon, net.client.connect((EDGE_IPV6, 443).into())?, &listener)?;
    daemon.stop()
}

#[test]
fn both_connections_may_go_by_one_interface() -> Result<()> {
    let server: std::net::SocketAddr = (CLIENT_IPV4, SERVER_PORT).into();
    let net = Topology::create()?;
    let listener = RawListener::bind(&net.client, server)?;
    let config =
        Config::new().listen_to("one", "[::]:443", "one").upstream("one", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    check(&daemon, net.client.connect(edge(443))?, &listener)?;
    daemon.stop()
}

#[test]
fn a_reset_reaches_the_other_end_and_the_record() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let address = client.local_addr()?;
    reset(client)?;
    expect_ending(&mut server, Ending::Reset)?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!(
        (access.reason.as_str(), access.side.as_deref()),
        ("client_reset", Some("client")),
        "{access:?}"
    );
    site.daemon.stop()
}

#[test]
fn answers_to_probes_are_no_bytes_in_the_list_of_flows() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).timeout("keepalive", "2s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    // It has been probed several times by then.
    site.daemon.wait_for_flow("a flow that has rested", |flow| flow.idle_seconds >= 4.0)?;
    transfer(&mut server, &mut client, 2, 1000)?;
    let flow = site.daemon.wait_for_flow("a flow", |_| true)?;
    assert!(flow.age_seconds >= 4.0 && flow.idle_seconds < 2.0, "{flow:?}");
    site.daemon.stop()
}

#[test]
fn a_flow_that_rests_for_too_long_is_ended_in_order() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).timeout("idle", "2s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    expect_ending(&mut client, Ending::Eof)?;
    expect_ending(&mut server, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!(access.reason, "idle_timeout", "{access:?}");
    site.daemon.stop()
}

#[test]
fn an_end_that_has_vanished_is_found_by_probes() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).timeout("keepalive", "4s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    site.net.client.cut_links()?;
    expect_ending(&mut server, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!(access.reason, "client_timeout", "{access:?}");
    site.daemon.stop()
}

#[test]
fn ends_that_have_nothing_to_say_answer_probes_and_live() -> Result<()> {
    let site = RawSite::launch(
        &config().datapath(Datapath::Packet).timeout("keepalive", "2s"),
        &Launch::new()?.verbose(),
    )?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    dawdle(Duration::from_secs(5));
    transfer(&mut server, &mut client, 2, 100_000)?;
    transfer(&mut client, &mut server, 3, 100_000)?;
    drop((client, server));
    site.daemon.stop()
}

/// A flow that leaves its sockets, is used and ends.
fn check(daemon: &Daemon, mut client: TcpStream, listener: &RawListener) -> Result<()> {
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    let before = counted(daemon)?;
    transfer(&mut client, &mut server, 2, MIB)?;
    transfer(&mut server, &mut client, 3, MIB)?;
    let after = counted(daemon)?;
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 2 * MIB, "{before:?} {after:?}");
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    daemon.wait_for_idle()
}
