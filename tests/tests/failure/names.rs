//! Servers by their names: a name server that does not answer, answers that change, files that change.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Config, Daemon};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, Topology, backend, edge};
use harness::peers::dns::{Dnsmasq, SilentNameServer};
use harness::peers::raw::{Ending, RawListener, expect_ending, reset, transfer};

const NAME_SERVER: SocketAddr = SocketAddr::new(BACKEND_IPV4, 53);
/// Clients of a name that nobody answers for.
const CROWD: usize = 600;

/// A flow to `listener` by `port` of the edge works.
fn expect_flow(net: &Topology, port: u16, listener: &RawListener) -> Result<()> {
    let mut client = net.client.connect(edge(port))?;
    client.write_all(b"hello?")?;
    let mut server = listener.accept_after(b"hello?")?;
    transfer(&mut server, &mut client, 1, 1000)?;
    Ok(reset(client)?)
}

/// What is known of it is one question for each family of addresses, which may be repeated.
fn expect_one_look_up(silent: &SilentNameServer) -> Result<()> {
    let questions: BTreeSet<_> = silent.questions()?.into_iter().collect();
    let names: BTreeSet<_> = questions.iter().map(|question| question.name.as_str()).collect();
    ensure!(names == BTreeSet::from(["silent.test"]), "{names:?}");
    // One look-up, or a second one for clients that came after the first had failed.
    ensure!(questions.len() <= 12, "{questions:?}");
    Ok(())
}

#[test]
fn a_name_server_that_does_not_answer_costs_no_thread_and_holds_up_nobody_else() -> Result<()> {
    let net = Topology::create()?;
    let hosts = "10.2.0.2 near.test\n";
    net.edge.set_names(hosts, "nameserver 10.2.0.2\n")?;
    let silent = SilentNameServer::bind(&net.backend, NAME_SERVER)?;
    let near = RawListener::bind(&net.backend, backend(9443))?;
    let config = Config::new()
        .listen_to("silent", "[::]:4430", "silent")
        .listen_to("near", "[::]:4431", "near")
        .upstream("silent", "silent.test:9443")
        .upstream("near", "near.test:9443")
        .hold("100ms")
        .timeout("connect", "3s");
    let daemon = Daemon::start(&net.edge, &config)?;
    expect_flow(&net, 4431, &near)?;
    let threads = daemon.threads()?;
    let mut crowd = net.client.enter(|| {
        let connect = |_| TcpStream::connect_timeout(&edge(4430), PATIENCE).context("one of the crowd");
        (0..CROWD).map(connect).collect::<Result<Vec<_>>>()
    })?;
    daemon.wait_for_metric("snisplice_connections_accepted_total", &[("listener", "silent")], 600.0)?;
    // They wait, and others do not.
    expect_flow(&net, 4431, &near)?;
    let now = daemon.threads()?;
    ensure!(now == threads, "{threads} threads before, {now} with {CROWD} look-ups");
    for client in &mut crowd {
        client.set_read_timeout(Some(PATIENCE))?;
        expect_ending(client, Ending::Reset)?;
    }
    expect_one_look_up(&silent)?;
    let access = daemon.wait_for_access(crowd.first().context("nobody")?.local_addr()?)?;
    ensure!(access.reason == "connect_resolve", "{access:?}");
    ensure!(
        access.error.as_ref().is_some_and(|error| error.contains("no name server answered")),
        "{access:?}"
    );

    // From now on the name stands in the file.
    net.edge.set_names(&format!("{hosts}10.2.0.2 other.test silent.test\n"), "nameserver 10.2.0.2\n")?;
    wait_for("the change of the file to be noticed", PATIENCE, || {
        let client = net.client.connect(edge(4430)).ok()?;
        let accepted = near.accept_within(Duration::from_millis(500)).ok()?;
        reset(client).ok()?;
        accepted
    })?;
    daemon.wait_for_idle()?;
    daemon.stop()
}

/// Of a name that the search list completes, the dead address comes first. Later it has another one.
#[test]
fn the_addresses_of_a_name_are_tried_and_looked_up_again_when_their_time_is_over() -> Result<()> {
    let net = Topology::create()?;
    net.edge.set_names("127.0.0.1 localhost\n", "search site.test\nnameserver 10.2.0.2\n")?;
    let six = RawListener::bind(&net.backend, SocketAddr::new(BACKEND_IPV6, 9443))?;
    let dead_and_six = "10.2.0.99 web.site.test\nfd00:2::2 web.site.test\n";
    let dns = Dnsmasq::start(&net.backend, NAME_SERVER, "site.test", dead_and_six)?;
    let config = Config::new()
        .listen_to("web", "[::]:4430", "web")
        .listen_to("nobody", "[::]:4431", "nobody")
        .upstream("web", "WEB:9443")
        .upstream("nobody", "nobody.site.test:9443")
        .hold("100ms")
        .timeout("connect", "1s");
    let daemon = Daemon::start(&net.edge, &config)?;
    expect_flow(&net, 4430, &six)?;

    let mut client = net.client.connect(edge(4431))?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "connect_resolve", "{access:?}");

    let four = RawListener::bind(&net.backend, backend(9443))?;
    dns.set("10.2.0.2 web.site.test\n")?;
    wait_for("the new address", PATIENCE, || {
        let client = net.client.connect(edge(4430)).ok()?;
        let accepted = four.accept_within(Duration::from_millis(500)).ok()?;
        reset(client).ok()?;
        accepted
    })?;
    daemon.wait_for_idle()?;
    daemon.stop()
}
