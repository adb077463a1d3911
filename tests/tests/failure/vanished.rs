//! A peer vanishes without a word: its link is cut, so that neither FIN nor RST ever comes.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::Namespace;
use harness::peers::raw::{Ending, expect_ending, transfer};
use harness::site::{RawSite, config};

/// Short enough for a test; probes go out in whole seconds.
const KEEPALIVE: &str = "3s";

fn site() -> Result<RawSite> {
    RawSite::start(&config().timeout("keepalive", KEEPALIVE))
}

/// The flow of `client` has ended for `reason`, and was counted.
fn expect_timeout(site: &RawSite, client: std::net::SocketAddr, reason: &str) -> Result<()> {
    let access = site.daemon.wait_for_access(client)?;
    assert_eq!((access.reason.as_str(), access.side.as_deref()), (reason, reason.strip_suffix("_timeout")));
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", reason)], 1.0)
}

#[test]
fn an_idle_client_that_vanishes_ends_its_flow_with_a_reset_for_the_server() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    let address = client.local_addr()?;
    site.net.client.cut_links()?;
    expect_ending(&mut server, Ending::Reset)?;
    expect_timeout(&site, address, "client_timeout")?;
    site.daemon.stop()
}

#[test]
fn an_idle_server_that_vanishes_ends_its_flow_with_a_reset_for_the_client() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    site.net.backend.cut_links()?;
    expect_ending(&mut client, Ending::Reset)?;
    expect_timeout(&site, client.local_addr()?, "upstream_timeout")?;
    site.daemon.stop()
}

/// Cuts the links of `namespace` and sends towards it: bytes that are never acknowledged.
fn send_into_the_void(namespace: &Namespace, from: &mut TcpStream) -> Result<()> {
    namespace.cut_links()?;
    Ok(from.write_all(&[7; 100_000])?)
}

#[test]
fn a_client_that_vanishes_with_bytes_on_their_way_to_it_ends_its_flow() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, 100_000)?;
    let address = client.local_addr()?;
    send_into_the_void(&site.net.client, &mut server)?;
    expect_ending(&mut server, Ending::Reset)?;
    expect_timeout(&site, address, "client_timeout")?;
    site.daemon.stop()
}

#[test]
fn a_server_that_vanishes_with_bytes_on_their_way_to_it_ends_its_flow() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    send_into_the_void(&site.net.backend, &mut client)?;
    expect_ending(&mut client, Ending::Reset)?;
    expect_timeout(&site, client.local_addr()?, "upstream_timeout")?;
    site.daemon.stop()
}

/// The window of such a peer is closed, and its kernel goes on to say so: it is alive.
#[test]
fn a_peer_that_does_not_read_for_longer_than_that_has_not_vanished() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    server.set_write_timeout(Some(Duration::from_millis(300)))?;
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    let stopped = wait_for("the sender to be stopped", PATIENCE, || match server.write(&chunk) {
        Ok(count) => {
            sent += count as u64;
            None
        }
        Err(error) => Some(error),
    })?;
    assert_eq!(stopped.kind(), std::io::ErrorKind::WouldBlock, "{stopped}");
    // The client's pace: longer than the silence that counts, twice over.
    dawdle(Duration::from_secs(7));
    let reader = std::thread::spawn(move || harness::peers::raw::read_to_ending(&mut client));
    harness::peers::raw::finish(&server)?;
    assert_eq!(reader.join().expect("the reader panicked")?, (sent, Ending::Eof));
    drop(server);
    site.daemon.stop()
}
