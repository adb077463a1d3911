//! Servers that do not accept: clients are held, refused, or leave.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use harness::MIB;
use harness::netns::{backend, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, read_to_ending, reset, transfer};
use harness::site::{POLLING_PORT, RawSite, config, polling_hello};

#[test]
fn a_server_that_refuses_resets_the_client() -> Result<()> {
    let site = RawSite::start(&config().hold("0s"))?;
    site.polling.stop()?;
    let mut client = site.net.client.connect(edge(443))?;
    client.write_all(&polling_hello())?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.bytes_out), ("connect_refused", 0), "{access:?}");
    assert_eq!(access.hello.as_deref(), Some("found"), "{access:?}");
    let error = access.error.as_deref().unwrap_or_default();
    assert!(error.contains("10943") && error.contains("refused"), "{access:?}");
    let labels = [("route", "polling"), ("reason", "connect_refused")];
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &labels, 1.0)?;
    let labels = [("upstream", "octopus-polling")];
    site.daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &labels, 1.0)?;
    site.daemon.stop()
}

/// A server that takes a connection and resets it at once has answered: it is not asked again, and the client is told.
#[test]
fn a_reset_at_once_is_passed_on_and_not_tried_again() -> Result<()> {
    let site = RawSite::start(&config().hold("60s"))?;
    take_all(&site, |stream| Ok(reset(stream)?), |client| expect_ending(client, Ending::Reset))?;
    let labels = [("reason", "upstream_reset")];
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &labels, (BURSTS * BURST) as f64)?;
    site.daemon.stop()
}

/// The same after a few bytes and the end of its stream, of which the client may see something: the kernel has another error
/// for that.
#[test]
fn so_is_an_end_and_a_reset_at_once() -> Result<()> {
    let site = RawSite::start(&config().hold("60s"))?;
    let end = |mut stream: TcpStream| {
        stream.write_all(b"no")?;
        stream.shutdown(Shutdown::Write)?;
        Ok(reset(stream)?)
    };
    take_all(&site, end, |client| read_to_ending(client).map(drop))?;
    site.daemon.stop()
}

const BURSTS: usize = 10;

/// Less than the server's kernel lets wait to be accepted.
const BURST: usize = 100;

/// Lets the server `end` all connections, each of which is asked for once, and the client `expect` that.
fn take_all(
    site: &RawSite,
    end: fn(TcpStream) -> Result<()>,
    expect: fn(&mut TcpStream) -> Result<()>,
) -> Result<()> {
    for _ in 0..BURSTS {
        let take = |_| end(site.polling.accept()?);
        thread::scope(|scope| {
            let server = scope.spawn(move || (0..BURST).try_for_each(take));
            // All at once, so that the daemon sees some of the resets together with the connection.
            site.daemon.signal(libc::SIGSTOP)?;
            let connect = |_| site.net.client.connect(edge(POLLING_PORT));
            let clients = (0..BURST).map(connect).collect::<Result<Vec<_>>>();
            site.daemon.signal(libc::SIGCONT)?;
            clients?.iter_mut().try_for_each(expect)?;
            server.join().map_err(|_| anyhow!("the server panicked"))?
        })?;
    }
    ensure!(site.polling.is_untouched(), "a connection was tried again");
    site.daemon.wait_for_idle()
}

#[test]
fn a_connection_is_held_until_the_server_is_back() -> Result<()> {
    let site = RawSite::start(&config().hold("10s"))?;
    let RawSite { daemon, polling, net, .. } = site;
    polling.stop()?;
    let hello = polling_hello();
    let mut client = net.client.connect(edge(443))?;
    client.write_all(&hello)?;
    let labels = [("upstream", "octopus-polling")];
    daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &labels, 1.0)?;
    let back = RawListener::bind(&net.backend, backend(POLLING_PORT))?;
    let mut server = back.accept_after(&hello)?;
    transfer(&mut server, &mut client, 1, MIB)?;
    drop((client, server));
    daemon.stop()
}

#[test]
fn a_client_that_leaves_while_it_is_held_is_noticed() -> Result<()> {
    let RawSite { daemon, polling, net, .. } = RawSite::start(&config().hold("60s"))?;
    polling.stop()?;
    let mut client = net.client.connect(edge(443))?;
    let address = client.local_addr()?;
    client.write_all(&polling_hello())?;
    let labels = [("upstream", "octopus-polling")];
    daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &labels, 1.0)?;
    reset(client)?;
    assert_eq!(daemon.wait_for_access(address)?.reason, "client_gone");
    daemon.stop()
}
