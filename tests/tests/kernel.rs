//! Who carries the bytes: the kernel's counters against the peers' own counts.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result};
use harness::daemon::{Access, Daemon, Datapath, Flow, Kernel, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::peers::agent::Work;
use harness::peers::raw::{Ending, expect_ending, finish, reset, transfer};
use harness::site::{POLLING_NAME, RawSite, SHARED_PORT, Site, config, polling_hello};

const BULK: u64 = 32 * 1024 * 1024;

/// Below the credit of a direction, so that its bytes never have to wait for their reader.
const PORTION: u64 = 64 * 1024;

/// Ends both directions and returns the record of the connection.
fn settle(daemon: &Daemon, mut client: TcpStream, mut server: TcpStream) -> Result<Access> {
    let address = client.local_addr()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    daemon.wait_for_access(address)
}

fn kernel(daemon: &Daemon) -> Result<Kernel> {
    daemon.status()?.kernel.context("the status has no kernel counters")
}

/// As long as its readers keep up.
#[test]
fn by_sockmap_the_kernel_carries_every_byte() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Sockmap))?;
    let before = kernel(&site.daemon)?;
    let (mut client, mut server) = site.flow()?;
    for portion in 0..BULK / PORTION {
        transfer(&mut server, &mut client, 2 * portion, PORTION)?;
        transfer(&mut client, &mut server, 2 * portion + 1, PORTION)?;
    }

    let address = client.local_addr()?.to_string();
    let flow = site.daemon.wait_for_flow("the flow to be listed", |flow| flow.client == address)?;
    assert_eq!(flow.datapath.as_deref(), Some("sockmap"), "{flow:?}");
    assert_eq!(flow.sni.as_deref(), Some(POLLING_NAME), "{flow:?}");
    let sent = BULK + polling_hello().len() as u64;
    assert_eq!((flow.bytes_in, flow.bytes_out), (sent, BULK), "{flow:?}");

    let access = settle(&site.daemon, client, server)?;
    assert_eq!((access.bytes_in, access.bytes_out), (sent, BULK), "{access:?}");
    assert_eq!((access.datapath.as_deref(), access.reason.as_str()), (Some("sockmap"), "eof"), "{access:?}");
    let after = kernel(&site.daemon)?;
    assert_eq!(after.passed_bytes, before.passed_bytes, "bytes went through the daemon");
    assert_eq!(after.redirect_failures, 0);
    assert_eq!(after.redirected_bytes, before.redirected_bytes + sent + BULK, "{before:?} then {after:?}");
    assert!(after.redirected_segments > before.redirected_segments, "{before:?} then {after:?}");
    site.daemon.stop()
}

#[test]
fn auto_copies_at_first_and_hands_over_what_lives_on() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Auto))?;
    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?.to_string();
    let flow = site.daemon.wait_for_flow("the flow to be copied", |flow| flow.client == address)?;
    assert_eq!(flow.datapath.as_deref(), Some("copy"), "{flow:?}");
    transfer(&mut server, &mut client, 1, BULK)?;
    transfer(&mut client, &mut server, 2, PORTION)?;
    let by_kernel = |flow: &Flow| flow.client == address && flow.datapath.as_deref() == Some("sockmap");
    let flow = site.daemon.wait_for_flow("the flow to be handed over", by_kernel)?;
    let sent = PORTION + polling_hello().len() as u64;
    assert_eq!((flow.bytes_in, flow.bytes_out), (sent, BULK), "{flow:?}");

    let before = kernel(&site.daemon)?;
    transfer(&mut server, &mut client, 3, PORTION)?;
    transfer(&mut client, &mut server, 4, PORTION)?;
    let after = kernel(&site.daemon)?;
    assert_eq!(after.redirected_bytes, before.redirected_bytes + 2 * PORTION, "{before:?} then {after:?}");
    let access = settle(&site.daemon, client, server)?;
    assert_eq!((access.bytes_in, access.bytes_out), (sent + PORTION, BULK + PORTION), "{access:?}");
    assert_eq!((access.datapath.as_deref(), access.reason.as_str()), (Some("sockmap"), "eof"), "{access:?}");
    for (datapath, bytes) in [("copy", sent + BULK), ("sockmap", 2 * PORTION)] {
        let counted = site.daemon.metrics()?.sum("snisplice_bytes_total", &[("datapath", datapath)]);
        assert!((counted - bytes as f64).abs() < 1.0, "{datapath}: {counted} of {bytes}");
    }
    site.daemon.stop()
}

#[test]
fn a_reader_that_falls_behind_is_given_every_byte_by_the_kernel_or_the_daemon() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Sockmap))?;
    let (mut client, mut server) = site.flow()?;
    // The reader checks each byte, which takes longer than sending it.
    transfer(&mut server, &mut client, 1, 4 * BULK)?;
    transfer(&mut client, &mut server, 2, 4 * BULK)?;
    let sent = 4 * BULK + polling_hello().len() as u64;
    let bulk = wait_for("all of it to be counted", PATIENCE, || {
        let counted = kernel(&site.daemon).ok()?;
        (counted.redirected_bytes + counted.passed_bytes == sent + 4 * BULK).then_some(counted)
    })?;
    // Now that the reader has caught up, the kernel must go on.
    transfer(&mut client, &mut server, 3, PORTION)?;
    let after = kernel(&site.daemon)?;
    assert_eq!(after.redirected_bytes, bulk.redirected_bytes + PORTION, "{bulk:?} then {after:?}");
    let access = settle(&site.daemon, client, server)?;
    assert_eq!((access.bytes_in, access.bytes_out), (sent + PORTION, 4 * BULK), "{access:?}");
    site.daemon.stop()
}

/// A client that resets leaves the map at once. What the server sends before the daemon has noticed finds no target: the
/// program says so, and nothing is worse for it.
#[test]
fn what_the_bpf_programs_log_is_in_the_log_at_debug_level() -> Result<()> {
    let site = RawSite::launch(&config().datapath(Datapath::Sockmap), &Launch::new()?.verbose())?;
    let logged = || site.daemon.log().iter().any(|line| line.contains("has no target"));
    for _ in 0..500 {
        let (mut client, mut server) = site.flow()?;
        let address = client.local_addr()?;
        let sender = thread::spawn(move || while server.write_all(&[0; 16 * 1024]).is_ok() {});
        client.read_exact(&mut vec![0; 1024 * 1024])?;
        reset(client)?;
        assert_eq!(site.daemon.wait_for_access(address)?.reason, "client_reset");
        sender.join().expect("the sender panicked");
        if logged() {
            break;
        }
    }
    assert!(logged(), "the program never met a missing target");
    assert!(kernel(&site.daemon)?.redirect_failures > 0);
    site.daemon.stop()
}

#[test]
fn the_metrics_agree_with_the_status() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Sockmap))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, BULK)?;
    settle(&site.daemon, client, server)?;
    let (status, metrics) = (kernel(&site.daemon)?, site.daemon.metrics()?);
    let expected = [
        ("snisplice_kernel_redirected_bytes_total", status.redirected_bytes),
        ("snisplice_kernel_redirected_segments_total", status.redirected_segments),
        ("snisplice_kernel_passed_bytes_total", status.passed_bytes),
        ("snisplice_kernel_redirect_failures_total", status.redirect_failures),
    ];
    for (name, value) in expected {
        assert_eq!(metrics.sum(name, &[]).to_string(), value.to_string(), "{name}");
    }
    let labels = [("route", "polling"), ("datapath", "sockmap")];
    let bytes = |direction| {
        metrics.sum("snisplice_bytes_total", &[labels[0], labels[1], ("direction", direction)]).to_string()
    };
    assert_eq!(bytes("in"), polling_hello().len().to_string());
    assert_eq!(bytes("out"), BULK.to_string());
    site.daemon.stop()
}

#[test]
fn the_daemon_counts_what_tls_peers_count_on_the_wire() -> Result<()> {
    let site = Site::start(&config())?;
    site.queues.queue_package("poll://one/", BULK);
    let mut agent = site.agent(Some(POLLING_NAME), SHARED_PORT, "poll://one/")?;
    assert_eq!(agent.poll()?, Work::Package(BULK));
    let wire = agent.leave()?;
    let (client, sent, received) = (wire.stream.local_addr()?, wire.sent, wire.received);
    drop(wire);
    let access = site.daemon.wait_for_access(client)?;
    assert_eq!((access.bytes_in, access.bytes_out), (sent, received), "{access:?}");
    site.stop()
}
