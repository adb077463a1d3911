//! The network moves under flows without sockets: routes, neighbours and interfaces go and come back.

use std::fs;
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use harness::MIB;
use harness::daemon::{Config, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{BACKEND_IPV6, EDGE_IPV6, Namespace, Topology};
use harness::peers::busy::while_busy;
use harness::peers::raw::{RawListener, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};

use crate::{counted, site};

/// One flow that has left its sockets.
fn begin(site: &RawSite) -> Result<(TcpStream, TcpStream)> {
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    Ok((client, server))
}

/// A second path between edge and backend, by which nothing goes yet.
fn second_path(net: &Topology) -> Result<()> {
    let peer = net.backend.name();
    net.edge.ip_batch(&format!(
        "link add name spare type veth peer name spare netns {peer}\n\
         link set spare up\naddress add 10.3.0.1/24 dev spare\naddress add fd00:3::1/64 dev spare nodad\n"
    ))?;
    net.backend.ip_batch(
        "link set spare up\naddress add 10.3.0.2/24 dev spare\naddress add fd00:3::2/64 dev spare nodad\n",
    )
}

#[test]
fn a_route_that_moves_to_another_interface_takes_the_flow_with_it() -> Result<()> {
    let site = site()?;
    second_path(&site.net)?;
    let flow = begin(&site)?;
    site.daemon.wait_for_log("\"interface\":\"spare\"")?;
    let before = counted(&site.daemon)?;
    let bytes = while_busy(&flow, || {
        // First what comes in goes the other way, then what goes out; and then the old path breaks.
        site.net.backend.ip_batch("route add 10.2.0.1/32 via 10.3.0.1\n")?;
        site.net.edge.ip_batch("route add 10.2.0.2/32 via 10.3.0.2\n")?;
        wait_for("the flow to move", PATIENCE, || {
            (counted(&site.daemon).ok()?.moved > before.moved).then_some(())
        })?;
        site.net.edge.ip_batch("link set backend down\n")
    })?;
    let (mut client, mut server) = flow;
    transfer(&mut client, &mut server, 4, MIB)?;
    transfer(&mut server, &mut client, 5, MIB)?;
    let after = counted(&site.daemon)?;
    assert_eq!(after.moved, before.moved + 1, "one entry goes to the server: {after:?}");
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 2 * (bytes + MIB), "{before:?} {after:?}");
    site.daemon.stop()
}

#[test]
fn a_route_of_ipv6_that_moves_is_followed_too() -> Result<()> {
    let server = (BACKEND_IPV6, 9443).into();
    let net = Topology::create()?;
    second_path(&net)?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config =
        Config::new().listen_to("six", "[::]:443", "six").upstream("six", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let mut client = net.client.connect((EDGE_IPV6, 443).into())?;
    let mut server = listener.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    daemon.wait_for_log("\"interface\":\"spare\"")?;
    net.edge.ip_batch("route add fd00:2::2/128 via fd00:3::2\n")?;
    wait_for("the flow to move", PATIENCE, || (counted(&daemon).ok()?.moved > 0).then_some(()))?;
    net.backend.ip_batch("route add fd00:2::1/128 via fd00:3::1\n")?;
    // Without its link the interface of the backend has no address of this family; without its neighbour it has.
    net.edge.ip_batch("link set backend down\n")?;
    transfer(&mut client, &mut server, 2, 16 * MIB)?;
    transfer(&mut server, &mut client, 3, 16 * MIB)?;
    daemon.stop()
}

#[test]
fn a_route_that_has_moved_while_no_daemon_ran_is_found_by_the_next_one() -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
    let mut site = RawSite::start(&config)?;
    second_path(&site.net)?;
    let (mut client, mut server) = begin(&site)?;
    site.daemon.wait_for_log("\"interface\":\"spare\"")?;
    site.daemon.signal(libc::SIGKILL)?;
    ensure!(site.daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    site.net.edge.ip_batch("route add 10.2.0.2/32 via 10.3.0.2\nlink set backend down\n")?;
    site.net.backend.ip_batch("route add 10.2.0.1/32 via 10.3.0.1\n")?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    transfer(&mut client, &mut server, 2, MIB)?;
    transfer(&mut server, &mut client, 3, MIB)?;
    assert_eq!(counted(&site.daemon)?.moved, 1);
    Ok(())
}

#[test]
fn packets_without_a_route_are_counted_and_dropped_until_there_is_one() -> Result<()> {
    let site = site()?;
    let flow = begin(&site)?;
    let before = counted(&site.daemon)?;
    site.net.edge.ip_batch("route del 10.2.0.0/24 dev backend\n")?;
    wait_for("the daemon to hear of it", PATIENCE, || {
        (counted(&site.daemon).ok()?.moved > before.moved).then_some(())
    })?;
    let bytes = while_busy(&flow, || {
        wait_for("packets without a route", PATIENCE, || {
            (counted(&site.daemon).ok()?.no_route > before.no_route).then_some(())
        })?;
        site.net.edge.ip_batch("route add 10.2.0.0/24 dev backend src 10.2.0.1\n")
    })?;
    let after = counted(&site.daemon)?;
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 2 * bytes, "{before:?} {after:?}");
    site.daemon.stop()
}

#[test]
fn a_next_hop_that_is_silent_for_a_while_stops_the_flow_for_as_long() -> Result<()> {
    let site = site()?;
    let flow = begin(&site)?;
    // The backend needs not ask for the edge, by which the edge would learn of the backend.
    let address = in_namespace(&site.net.edge, "/sys/class/net/backend/address", None)?;
    site.net
        .backend
        .ip_batch(&format!("neigh replace 10.2.0.1 lladdr {} dev edge nud permanent\n", address.trim()))?;
    let ignore = "/proc/sys/net/ipv4/conf/edge/arp_ignore";
    in_namespace(&site.net.backend, ignore, Some("8"))?;
    site.net.edge.ip_batch("neigh flush dev backend\n")?;
    let arrived = |site: &RawSite| {
        let text = in_namespace(&site.net.backend, "/proc/net/snmp", None).ok()?;
        text.lines().rfind(|line| line.starts_with("Tcp: "))?.split(' ').nth(10)?.parse::<u64>().ok()
    };
    let before = counted(&site.daemon)?;
    while_busy(&flow, || {
        wait_for("packets to be sent in vain", PATIENCE, || {
            let forwarded = counted(&site.daemon).ok()?.forwarded_bytes - before.forwarded_bytes;
            (forwarded > 0).then_some(())
        })?;
        let reached = arrived(&site).context("no count of segments")?;
        wait_for("them to be sent again", PATIENCE, || {
            let lost = in_namespace(&site.net.client, "/proc/net/snmp", None).ok()?;
            let line = lost.lines().rfind(|line| line.starts_with("Tcp: "))?;
            (line.split(' ').nth(12)?.parse::<u64>().ok()? > 1).then_some(())
        })?;
        assert_eq!(arrived(&site), Some(reached), "a segment has found its way");
        in_namespace(&site.net.backend, ignore, Some("0")).map(drop)
    })?;
    site.daemon.stop()
}

#[test]
fn an_interface_that_comes_back_is_attached_again() -> Result<()> {
    let site = site()?;
    let flow = begin(&site)?;
    let before = counted(&site.daemon)?;
    let bytes = while_busy(&flow, || {
        site.net.edge.ip_batch("link del backend\n")?;
        wait_for("packets without a route", PATIENCE, || {
            (counted(&site.daemon).ok()?.no_route > before.no_route).then_some(())
        })?;
        let peer = site.net.backend.name();
        site.net.edge.ip_batch(&format!(
            "link add name backend type veth peer name edge netns {peer}\n\
             link set backend up\naddress add 10.2.0.1/24 dev backend\n"
        ))?;
        // Its new end is attached before the backend may send anything.
        wait_for("the interface to be attached again", PATIENCE, || {
            let log = site.daemon.log();
            let attached = log.iter().filter(|line| line.contains("\"interface\":\"backend\""));
            (attached.count() == 2).then_some(())
        })?;
        site.net
            .backend
            .ip_batch("link set edge up\naddress add 10.2.0.2/24 dev edge\nroute add default via 10.2.0.1\n")
    })?;
    let after = counted(&site.daemon)?;
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 2 * bytes, "{before:?} {after:?}");
    site.daemon.stop()
}

/// Reads a file of `/proc` or `/sys` as it is in a namespace, or writes it.
fn in_namespace(namespace: &Namespace, path: &str, value: Option<&str>) -> Result<String> {
    if let Some(value) = value {
        return namespace.enter(|| {
            fs::write(path, value).with_context(|| format!("writing {path}"))?;
            Ok(String::new())
        });
    }
    let output = namespace.command("cat").arg(path).output()?;
    ensure!(output.status.success(), "reading {path}");
    Ok(String::from_utf8(output.stdout)?)
}
