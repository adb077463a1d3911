//! Servers that stop accepting, and accept again: the operator is told once, and sees it in the status and the metrics.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::{Daemon, Datapath, Server};
use harness::netns::{BACKEND_IPV6, backend, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, reset};
use harness::site::{POLLING_PORT, RawSite, config, polling_hello};

const UPSTREAM: &str = "octopus-polling";
const DOWN: &str = "a server does not accept connections";
const UP: &str = "a server accepts connections again";

/// What the status says of the polling server.
fn polling_server(daemon: &Daemon) -> Result<Server> {
    server_of(daemon, UPSTREAM)
}

fn server_of(daemon: &Daemon, name: &str) -> Result<Server> {
    let upstreams = daemon.status()?.upstreams;
    let upstream = upstreams.into_iter().find(|upstream| upstream.name == name).context("no upstream")?;
    upstream.servers.into_iter().next().context("no server")
}

/// Its metric: none before the first connection.
fn metric(daemon: &Daemon) -> Result<Option<f64>> {
    let metrics = daemon.metrics()?;
    let of_polling = |labels: &[(String, String)]| labels.iter().any(|(_, value)| value == UPSTREAM);
    let samples = metrics.samples_of("snisplice_upstream_server_up");
    Ok(samples.iter().find(|sample| of_polling(&sample.labels)).map(|sample| sample.value))
}

/// What `snisplice status` prints of it.
fn line(site: &RawSite) -> Result<String> {
    let mut command = site.net.edge.command(snisplice()?);
    let text = run(command.args(["status", "--socket"]).arg(site.daemon.admin_socket()), b"")?.success()?;
    text.lines().find(|line| line.contains(UPSTREAM)).map(str::to_owned).with_context(|| text.clone())
}

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_server_that_stops_accepting_is_told_of_once_and_so_is_its_return() -> Result<()> {
    let site = RawSite::start(&config().hold("100ms"))?;
    ensure!(polling_server(&site.daemon)?.state == "unknown" && metric(&site.daemon)?.is_none());
    let (client, server) = site.flow()?;
    ensure!(polling_server(&site.daemon)?.state == "up" && metric(&site.daemon)? == Some(1.0));
    reset(client)?;
    drop(server);

    let RawSite { daemon, polling, web, net } = site;
    polling.stop()?;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = net.client.connect(edge(443))?;
        client.write_all(&polling_hello())?;
        clients.push(client);
    }
    for client in &mut clients {
        expect_ending(client, Ending::Reset)?;
    }
    let warning = daemon.wait_for_log(DOWN)?;
    ensure!(warning.contains("WARN") && warning.contains("refused"), "{warning}");
    let down = polling_server(&daemon)?;
    ensure!(down.state == "down" && down.failures >= 50, "{down:?}");
    ensure!(down.last_reason.as_deref() == Some("refused") && down.last_error.is_some(), "{down:?}");
    ensure!(metric(&daemon)? == Some(0.0));
    let site = RawSite { daemon, polling: RawListener::bind(&net.backend, backend(POLLING_PORT))?, web, net };
    let said = line(&site)?;
    ensure!(said.contains("10.2.0.2:10943: down for ") && said.contains("refused"), "{said}");

    for _ in 0..2 {
        let (client, server) = site.flow()?;
        reset(client)?;
        drop(server);
    }
    site.daemon.wait_for_log(UP)?;
    ensure!(polling_server(&site.daemon)?.state == "up" && metric(&site.daemon)? == Some(1.0));
    ensure!(line(&site)?.contains("10.2.0.2:10943: up for "));
    site.daemon.wait_for_idle()?;
    let told = [DOWN, UP].map(|text| count(&site.daemon, text));
    ensure!(told == [1, 1], "{told:?}");
    site.daemon.stop()
}

/// The kernel gives one error for both.
#[test]
fn a_server_is_down_for_want_of_an_address_of_this_host_and_not_for_want_of_a_port() -> Result<()> {
    let six = SocketAddr::new(BACKEND_IPV6, 9443);
    let config = config().hold("100ms").datapath(Datapath::Copy).listen_to("six", "[::]:4430", "six");
    let site = RawSite::start(&config.upstream("six", six))?;
    site.net.edge.enter(|| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
        Ok(fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50001")?)
    })?;
    let mut client = site.net.client.connect(edge(4430))?;
    expect_ending(&mut client, Ending::Reset)?;
    ensure!(site.daemon.wait_for_access(client.local_addr()?)?.reason == "connect_unreachable");
    let down = server_of(&site.daemon, "six")?;
    ensure!(down.state == "down" && down.last_reason.as_deref() == Some("unreachable"), "{down:?}");
    let warning = site.daemon.wait_for_log(DOWN)?;
    ensure!(warning.contains("this host has no IPv6 address to connect from"), "{warning}");

    let flows = [site.flow()?, site.flow()?];
    let mut client = site.connect()?;
    client.write_all(&polling_hello())?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "connect_failed", "{access:?}");
    ensure!(polling_server(&site.daemon)?.state == "up" && count(&site.daemon, DOWN) == 1);
    for (client, server) in flows {
        reset(client)?;
        drop(server);
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
