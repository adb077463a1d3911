//! A server in a container on this host: behind a bridge, with the rules that Docker makes.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use harness::MIB;
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Firewall, Namespace, PUBLISHED_PORT, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::pins::Pins;

use crate::churn::{Case, Pace, churn};
use crate::counted;
use crate::refusals::stays;

/// Where the server in the container listens.
const CONTAINER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2)), 8443);

/// The same, by the port that is published.
const PUBLISHED: SocketAddr = SocketAddr::new(harness::netns::EDGE_IPV4, PUBLISHED_PORT);

/// The backend of the site becomes a container behind the bridge of the edge.
fn containers() -> Result<Topology> {
    let net = Topology::create()?;
    net.edge.ip_batch(
        "address flush dev backend\nlink add docker0 type bridge\nlink set backend master docker0\n\
         address add 172.17.0.1/16 dev docker0\nlink set docker0 up\n",
    )?;
    net.backend.ip_batch(
        "address flush dev edge\naddress add 172.17.0.2/16 dev edge\nroute add default via 172.17.0.1\n",
    )?;
    net.edge.publish("docker0", CONTAINER)?;
    Ok(net)
}

/// Has packets that a bridge passes on go through the rules for IP, as Docker does (`br_netfilter`). False: this kernel cannot.
fn filter_bridges(edge: &Namespace) -> Result<bool> {
    edge.enter(|| {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if !std::path::Path::new(path).exists() {
            println!("SKIPPED: this kernel has no br_netfilter");
            return Ok(false);
        }
        std::fs::write(path, "1").with_context(|| format!("writing {path}"))?;
        Ok(true)
    })
}

fn to(server: SocketAddr, pins: &Pins) -> Config {
    Config::new()
        .listen_to("one", "[::]:443", "one")
        .upstream("one", server)
        .datapath(Datapath::Packet)
        .packet(pins, "0s")
}

fn client_of(net: &Topology) -> Result<std::net::TcpStream> {
    net.client.connect(harness::netns::edge(443))
}

fn offloaded_in_both_directions(daemon: &Daemon, net: &Topology, listener: &RawListener) -> Result<()> {
    let (mut client, mut server) = (client_of(net)?, listener.accept()?);
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    let before = counted(daemon)?;
    transfer(&mut client, &mut server, 2, 8 * MIB)?;
    transfer(&mut server, &mut client, 3, 8 * MIB)?;
    let after = counted(daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 16 * MIB, "{before:?} {after:?}");
    daemon.order("restore", &[daemon.id_of(client.local_addr()?)?])?;
    transfer(&mut client, &mut server, 4, MIB)?;
    transfer(&mut server, &mut client, 5, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)
}

#[test]
fn a_server_in_a_container_behind_the_bridge_is_offloaded_to() -> Result<()> {
    let (net, pins) = (containers()?, Pins::create()?);
    filter_bridges(&net.edge)?;
    let listener = RawListener::bind(&net.backend, CONTAINER)?;
    let daemon = Launch::new()?.start(&net.edge, &to(CONTAINER, &pins))?;
    offloaded_in_both_directions(&daemon, &net, &listener)?;
    daemon.stop()
}

/// With `br_netfilter` packets of the container pass the rules before routing on their way to the bridge, before any program at it.
#[test]
fn so_it_is_with_a_firewall_that_drops_before_routing_what_is_invalid() -> Result<()> {
    let (net, pins) = (containers()?, Pins::create()?);
    if !filter_bridges(&net.edge)? {
        return Ok(());
    }
    net.edge.remove_rules()?;
    net.edge.raise(Firewall { before_routing: true, output: false })?;
    net.edge.enter(|| Ok(std::fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")?))?;
    let listener = RawListener::bind(&net.backend, CONTAINER)?;
    let daemon = Launch::new()?.start(&net.edge, &to(CONTAINER, &pins))?;
    offloaded_in_both_directions(&daemon, &net, &listener)?;
    daemon.stop()
}

/// As a rule the port of a bridge has an address of its own, good for one link: then the programs see each packet there, and what they
/// pass on to a draining socket a second time at the bridge.
#[test]
fn hand_overs_succeed_where_packets_come_by_the_programs_twice() -> Result<()> {
    churn(Case { pace: Pace::Slow, ..Case::default() }, |net| {
        for (interface, address) in [("client", "10.1.0.1"), ("backend", "10.2.0.1")] {
            net.edge.ip_batch(&format!(
                "address flush dev {interface}\nlink add b-{interface} type bridge\nlink set {interface} master b-{interface}\n\
                 address add {address}/24 dev b-{interface}\nlink set b-{interface} up\naddress add fe80::1:2/64 dev {interface} nodad\n"
            ))?;
        }
        Ok(())
    })
}

/// The kernel would send what is offloaded to the port on this host, where nobody listens.
#[test]
fn a_published_port_of_this_host_keeps_its_connections_sockets() -> Result<()> {
    let (net, pins) = (containers()?, Pins::create()?);
    let listener = RawListener::bind(&net.backend, CONTAINER)?;
    let daemon = Launch::new()?.start(&net.edge, &to(PUBLISHED, &pins))?;
    let client = client_of(&net)?;
    stays(&daemon, (client, listener.accept()?), "same_host")?;
    daemon.stop()
}

/// Its interface goes, and comes again with another hardware address and the same address of IP: the connection ends, and the next one
/// is offloaded as well.
#[test]
fn a_container_that_is_started_again_resets_its_connections_and_takes_new_ones() -> Result<()> {
    let (net, pins) = (containers()?, Pins::create()?);
    let listener = RawListener::bind(&net.backend, CONTAINER)?;
    let daemon = Launch::new()?.start(&net.edge, &to(CONTAINER, &pins))?;
    let (mut client, mut server) = (client_of(&net)?, listener.accept()?);
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    // It goes without a word.
    net.edge.ip_batch("link del backend\n")?;
    harness::wire::vanish(server)?;
    drop(listener);
    net.edge.ip_batch(&format!(
        "link add name backend type veth peer name edge netns {}\nlink set backend master docker0\nlink set backend up\n",
        net.backend.name()
    ))?;
    net.backend.ip_batch(
        "link set edge up\naddress add 172.17.0.2/16 dev edge\nroute add default via 172.17.0.1\n",
    )?;
    let listener = RawListener::bind(&net.backend, CONTAINER)?;
    client.write_all(b"anyone?")?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "upstream_reset" && access.datapath.as_deref() == Some("packet"), "{access:?}");
    offloaded_in_both_directions(&daemon, &net, &listener)?;
    daemon.stop()
}

/// Each container has an interface with a name of its own: what was pinned for it goes with it.
#[test]
fn an_interface_that_has_gone_leaves_nothing_pinned() -> Result<()> {
    for attach in ["auto", "clsact"] {
        let (net, pins) = (containers()?, Pins::create()?);
        let listener = RawListener::bind(&net.backend, CONTAINER)?;
        let config = to(CONTAINER, &pins).packet_line(&format!("attach = \"{attach}\""));
        let daemon = Launch::new()?.start(&net.edge, &config)?;
        let (mut client, mut server) = (client_of(&net)?, listener.accept()?);
        transfer(&mut client, &mut server, 1, 1000)?;
        daemon.wait_for_packets(1)?;
        daemon.wait_for_log("\"interface\":\"backend\"")?;
        let number = net.edge.enter(|| Ok(harness::wire::interface_number("backend")?))?;
        let pinned = || -> Result<usize> {
            let files = pins.folder()?.read_dir()?.flatten();
            let is_its_own = |name: String| name.ends_with(&format!("gress-{number}"));
            Ok(files.filter(|file| is_its_own(file.file_name().to_string_lossy().into_owned())).count())
        };
        ensure!(pinned()? == 2, "{attach}: {}", pinned()?);
        net.edge.ip_batch("link del backend\n")?;
        wait_for(&format!("{attach}: the pins to go"), PATIENCE, || (pinned().ok()? == 0).then_some(()))?;
        daemon.stop()?;
    }
    Ok(())
}
