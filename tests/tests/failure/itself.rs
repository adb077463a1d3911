//! Connections to servers that come back to the daemon: to the socket that made them, or to one of its listeners.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{CLIENT_IPV4, CLIENT_IPV6, EDGE_IPV6, Namespace, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, reset, transfer};
use harness::site::{RawSite, config, polling_hello};

/// In the range of ports that the kernel chooses from.
const SERVER_PORT: u16 = 50_000;

/// Makes `port` the first port that the kernel chooses for connections of this namespace, and the next one the last.
fn choose_ports_from(namespace: &Namespace, port: u16) -> Result<()> {
    let range = format!("{port} {}", port + 1);
    let set = || fs::write("/proc/sys/net/ipv4/ip_local_port_range", &range).context("the range of ports");
    namespace.enter(set)
}

/// While nobody listens on a port of this host, the kernel may choose this very port for a connection to it, and the socket
/// then answers itself.
#[test]
fn a_server_that_is_down_is_not_answered_for_by_the_connection_itself() -> Result<()> {
    let server = edge(SERVER_PORT);
    let config = config().listen_to("near", "[::]:4430", "near").upstream("near", server).hold("10s");
    let site = RawSite::start(&config)?;
    choose_ports_from(&site.net.edge, SERVER_PORT)?;
    let mut client = site.net.client.connect(edge(4430))?;
    client.write_all(b"hello?")?;
    let refused = [("upstream", "near"), ("reason", "refused")];
    site.daemon.wait_for_metric("snisplice_upstream_connect_failures_total", &refused, 2.0)?;
    // Each attempt has the port for a moment only.
    let listener = wait_for("the port to be free for the server", PATIENCE, || {
        RawListener::bind(&site.net.edge, server).ok()
    })?;
    let mut accepted = listener.accept_after(b"hello?")?;
    transfer(&mut accepted, &mut client, 1, 1000)?;
    reset(client)?;
    drop(accepted);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// The edge's address on the backend's side.
const OTHER_IPV4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 1));
/// Of a network that nobody has.
const ELSEWHERE: &str = "10.9.9.9:4433";

/// Has connections of the edge to [`ELSEWHERE`] go to this port of the edge.
fn come_back(site: &RawSite, port: u16) -> Result<()> {
    site.net.edge.ip_batch("route add 10.9.9.9 via 10.2.0.2\n")?;
    site.net.edge.redirect_own(4433, port)
}

/// Connects, ends the client's stream, and expects a reset, one connection more at the listener, which was refused as one of our
/// own, and a line that says so.
fn expect_one_turn(site: &RawSite, listener: &str, to: SocketAddr, hello: &[u8]) -> Result<()> {
    let from = SocketAddr::new(if to.is_ipv4() { CLIENT_IPV4 } else { CLIENT_IPV6 }, to.port());
    // The reset may be faster than the call that connects, or that writes.
    if let Ok(mut client) = site.net.client.connect_from(from, to)
        && client.write_all(hello).is_ok()
    {
        expect_ending(&mut client, Ending::Reset)?;
    }
    let access = site.daemon.wait_for_access(from)?;
    ensure!(access.reason == "upstream_reset", "{access:?}");
    site.daemon.wait_for_idle()?;
    let records: Vec<_> =
        site.daemon.access().into_iter().filter(|record| record.listener == listener).collect();
    ensure!(records.len() == 2, "{records:#?}");
    let own = records.iter().find(|record| record.reason == "loop").context("none is a loop")?;
    // It may be reset before the daemon has seen that it was accepted.
    let is_ours = access.upstream_local.as_ref().is_none_or(|ours| *ours == own.client);
    ensure!(is_ours, "{own:?} {access:?}");
    ensure!(own.error.as_ref().is_some_and(|error| error.contains(listener)), "{own:?}");
    Ok(())
}

#[test]
fn a_connection_that_comes_back_to_a_listener_is_refused_at_once() -> Result<()> {
    // By another address of this host, in both families; by a redirect; and after the hello.
    let config = config()
        .listen_to("four", "[::]:4430", "four")
        .upstream("four", SocketAddr::new(OTHER_IPV4, 4430))
        .listen_to("six", "[::]:4431", "six")
        .upstream("six", SocketAddr::new(EDGE_IPV6, 4431))
        .listen_to("redirected", "[::]:4432", "redirected")
        .upstream("redirected", ELSEWHERE)
        .listen("routed", "[::]:4434")
        .route("routed", "itself.test", "routed")
        .upstream("routed", SocketAddr::new(OTHER_IPV4, 4434));
    let site = RawSite::start(&config)?;
    come_back(&site, 4432)?;
    // Where the configuration tells.
    let mut check = site.net.edge.command(snisplice()?);
    let checked = run(check.args(["check", "--config"]).arg(site.daemon.config_file()), b"")?;
    let text = checked.stdout + &checked.stderr;
    ensure!(checked.code == Some(0), "{text}");
    for server in ["10.2.0.1:4430", "[fd00:1::1]:4431", "10.2.0.1:4434"] {
        ensure!(text.contains(&format!("{server} is an address of this host")), "{server}: {text}");
    }
    let hello = harness::hello::Hello::to("itself.test").bytes();
    expect_one_turn(&site, "four", edge(4430), b"hello?")?;
    expect_one_turn(&site, "six", SocketAddr::new(EDGE_IPV6, 4431), b"hello?")?;
    expect_one_turn(&site, "redirected", edge(4432), b"hello?")?;
    expect_one_turn(&site, "routed", edge(4434), &hello)?;
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", "loop")], 4.0)?;
    let warning = site.daemon.wait_for_log("came back to a listener of this daemon")?;
    ensure!(warning.contains("\"listener/four\"") && warning.contains("WARN"), "{warning}");
    // Others are served.
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    finish(&client)?;
    finish(&server)?;
    drop((client, server));
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// The kernel gives one port to connections to different addresses: a client on this host is not taken for us because one of our
/// connections to a server has the same port.
#[test]
fn a_client_of_this_host_with_a_port_of_ours_is_served() -> Result<()> {
    // Ports of the packet datapath are bound, and the kernel gives them to nobody else.
    let site = RawSite::start(&config().datapath(Datapath::Copy))?;
    let (client, server) = site.flow()?;
    let ours = server.peer_addr()?;
    choose_ports_from(&site.net.edge, ours.port())?;
    let mut near = site.net.edge.connect(SocketAddr::new(ours.ip(), 443))?;
    ensure!(near.local_addr()? == ours, "{near:?}");
    near.write_all(&polling_hello())?;
    // The daemon has another port left, for another server.
    drop((client, server));
    expect_served(&site, &mut near)?;
    drop(near);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

fn expect_served(site: &RawSite, client: &mut TcpStream) -> Result<()> {
    let mut server = site.polling.accept_after(&polling_hello())?;
    transfer(client, &mut server, 1, 1000)
}
