//! Servers that cannot be reached, each in its own way: the client gets a reset within the bound, with a reason.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::command::run;
use harness::netns::{BACKEND_IPV4, edge};
use harness::peers::raw::{Ending, expect_ending, finish, reset, transfer};
use harness::site::{RawSite, config, polling_hello};

/// An address in the backend's network that nobody has: requests for it are never answered.
const NOBODY: &str = "10.2.0.99:443";

/// A site with a listener on port 4430 that leads to `server`. Clients are held for a moment: a reset could else be faster
/// than the client's own connect call.
fn site(server: &str) -> Result<RawSite> {
    let to = config().listen_to("far", "[::]:4430", "far").upstream("far", server);
    RawSite::start(&to.hold("100ms").timeout("connect", "500ms"))
}

/// A client of that listener gets a reset, and all that is said of it is that the server failed it for `failure`.
fn expect_failure(site: &RawSite, reason: &str, failure: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut client = site.net.client.connect(edge(4430))?;
    client.write_all(b"hello?")?;
    expect_ending(&mut client, Ending::Reset)?;
    let took = begun.elapsed();
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.side.as_deref()), (reason, Some("upstream")), "{access:?}");
    assert!(access.error.is_some() && access.bytes_in == 0, "{access:?}");
    let labels = [("upstream", "far"), ("reason", failure)];
    site.daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &labels, 1.0)?;
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", reason)], 1.0)?;
    Ok(took)
}

#[test]
fn a_server_that_never_answers_is_given_up_at_the_deadline() -> Result<()> {
    let site = site(NOBODY)?;
    let took = expect_failure(&site, "connect_timeout", "timeout")?;
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(3), "{took:?}");
    site.daemon.stop()
}

#[test]
fn a_server_without_a_route_fails_at_once() -> Result<()> {
    let site = site("10.9.9.9:443")?;
    let mut route = site.net.edge.command("ip");
    run(route.args(["route", "add", "unreachable", "10.9.9.9"]), b"")?.success()?;
    expect_failure(&site, "connect_unreachable", "unreachable")?;
    site.daemon.stop()
}

#[test]
fn a_server_that_refuses_fails_at_once() -> Result<()> {
    let site = site(&SocketAddr::new(BACKEND_IPV4, 1).to_string())?;
    expect_failure(&site, "connect_refused", "refused")?;
    site.daemon.stop()
}

#[test]
fn a_name_without_an_address_fails() -> Result<()> {
    // No name server answers in a namespace of its own, and the name is reserved not to exist (RFC 6761).
    let site = site("nobody.invalid:443")?;
    let mut client = site.net.client.connect(edge(4430))?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    // A resolver that waits for its server meets the deadline first.
    assert!(["connect_resolve", "connect_timeout"].contains(&access.reason.as_str()), "{access:?}");
    site.daemon.stop()
}

/// Those that are under way to a black hole do not stand in the way of the others.
#[test]
fn a_black_hole_holds_up_nobody_else() -> Result<()> {
    let to = config().listen_to("far", "[::]:4430", "far").upstream("far", NOBODY);
    let site = RawSite::start(&to.hold("60s"))?;
    let stuck: Vec<_> = (0..50).map(|_| site.net.client.connect(edge(4430))).collect::<Result<_>>()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    drop((client, server));
    for client in stuck {
        reset(client)?;
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// The kernel splices established sockets only, and nothing has been taken from the client by then.
#[test]
fn a_client_that_has_ended_before_the_hand_over_is_copied_and_counted() -> Result<()> {
    let site = RawSite::start(&config().datapath(harness::daemon::Datapath::Sockmap).hold("10s"))?;
    let RawSite { daemon, polling, net, .. } = site;
    polling.stop()?;
    let hello = polling_hello();
    let mut client = net.client.connect(edge(443))?;
    client.write_all(&hello)?;
    finish(&client)?;
    // It has certainly arrived by the time that there is a server.
    let upstream = [("upstream", "octopus-polling")];
    daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &upstream, 1.0)?;
    let back = harness::peers::raw::RawListener::bind(&net.backend, harness::netns::backend(10943))?;
    let mut server = back.accept_after(&hello)?;
    expect_ending(&mut server, Ending::Eof)?;
    transfer(&mut server, &mut client, 1, 1_000_000)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("copy")), "{access:?}");
    assert_eq!((access.bytes_in, access.bytes_out), (hello.len() as u64, 1_000_000), "{access:?}");
    let labels = [("from", "sockmap"), ("reason", "half_closed")];
    daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    drop((client, server));
    daemon.stop()
}
