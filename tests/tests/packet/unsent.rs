//! The host does not let the daemon send to the peers of offloaded connections.

use std::io::Write as _;

use anyhow::{Result, ensure};
use harness::daemon::Datapath;
use harness::peers::raw::{Ending, expect_ending, transfer};
use harness::site::{RawSite, config};

/// A firewall drops what the host sends, so that no probe goes out: an idle connection is not closed for a silence that is not its
/// peers' fault, all is said, and an order whose resets cannot be sent says so.
#[test]
fn without_probes_an_idle_connection_lives_and_a_kill_says_who_was_not_told() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).timeout("keepalive", "1s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let address = client.local_addr()?;
    site.net.edge.drop_output()?;
    site.daemon.wait_for_metric("snisplice_packet_unsent_segments_total", &[], 1.0)?;
    let line = site.daemon.wait_for_log("cannot send a keepalive probe")?;
    ensure!(line.contains("OUTPUT") && line.contains("ERROR"), "{line}");
    site.daemon
        .wait_for_flow("a flow that has rested for three times keepalive", |flow| flow.idle_seconds >= 3.0)?;
    transfer(&mut server, &mut client, 2, 1000)?;
    transfer(&mut client, &mut server, 3, 1000)?;

    let id = site.daemon.id_of(address)?.to_string();
    let killed = site.daemon.command("kill", &[&id])?;
    ensure!(killed.code == Some(69) && killed.stderr.contains("no reset could be sent"), "{killed:?}");
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!(access.reason, "killed", "{access:?}");
    ensure!(
        access.error.as_ref().is_some_and(|error| error.contains("no reset could be sent")),
        "{access:?}"
    );
    site.net.edge.remove_rules()?;
    drop((client.write_all(b"x"), server.write_all(b"x")));
    expect_ending(&mut client, Ending::Reset)?;
    expect_ending(&mut server, Ending::Reset)?;
    site.daemon.stop()
}

/// Once the probes go out again, a peer that has vanished is found as ever.
#[test]
fn a_peer_that_has_vanished_is_found_once_it_can_be_asked() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).timeout("keepalive", "1s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    site.net.edge.drop_output()?;
    site.net.client.cut_links()?;
    site.daemon.wait_for_flow("a flow that has rested", |flow| flow.idle_seconds >= 2.0)?;
    ensure!(site.daemon.access().is_empty(), "{:?}", site.daemon.access());
    site.net.edge.remove_rules()?;
    expect_ending(&mut server, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!(access.reason, "client_timeout", "{access:?}");
    site.daemon.stop()
}
