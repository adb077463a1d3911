//! Flows that cannot do without their sockets: each keeps them, is carried all the same, and is counted with its reason.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::keyed;
use harness::netns::{BACKEND_IPV4, EDGE_IPV6, Topology, WordMap, edge};
use harness::peers::raw::{Ending, RawListener, expect_ending, fill, finish, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use harness::wire::Tunnel;
use proxy_common::abi::packet::{HANDOVER_WORDS, MAX_HANDOVERS};
use socket2::{Domain, Socket, Type};

use crate::{set, site};

const SERVER_PORT: u16 = 9443;

/// Waits until a flow is said to have kept its sockets for this reason.
pub(crate) fn wait_for_reason(daemon: &Daemon, reason: &str) -> Result<()> {
    let labels = [("from", "packet"), ("reason", reason)];
    daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)
}

/// A flow that stays for this reason: its bytes arrive, its ends end it in order, and its record says that it was copied.
pub(crate) fn stays(
    daemon: &Daemon,
    (mut client, mut server): (TcpStream, TcpStream),
    reason: &str,
) -> Result<()> {
    transfer(&mut client, &mut server, 1, 1000)?;
    wait_for_reason(daemon, reason)?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    transfer(&mut server, &mut client, 3, 100_000)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.datapath.as_deref() == Some("copy") && access.reason == "eof", "{access:?}");
    Ok(())
}

/// A daemon that sends everything to one server.
fn to_one(net: &Topology, server: SocketAddr) -> Result<Daemon> {
    let config =
        Config::new().listen_to("one", "[::]:443", "one").upstream("one", server).datapath(Datapath::Packet);
    Launch::new()?.start(&net.edge, &config)
}

#[test]
fn a_flow_of_which_one_side_has_ended_stays() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1s"))?;
    let (mut client, mut server) = site.flow()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    wait_for_reason(&site.daemon, "half_closed")?;
    transfer(&mut server, &mut client, 1, 100_000)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("copy")), "{access:?}");
    site.daemon.stop()
}

/// Its server may not have the last segment of the handshake yet.
#[test]
fn a_flow_without_a_byte_stays_until_its_first_one() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.legacy_flow()?;
    let text = "no byte has been forwarded yet";
    site.daemon.wait_for_flow("a silent flow", |flow| {
        flow.obstacle.as_ref().is_some_and(|obstacle| obstacle.contains(text))
    })?;
    let id = site.daemon.id_of(client.local_addr()?)?;
    let refused = site.daemon.command("offload", &[&id.to_string()])?;
    ensure!(refused.code != Some(0) && refused.stderr.contains(text), "{refused:?}");
    wait_for_reason(&site.daemon, "silent")?;
    transfer(&mut server, &mut client, 1, 1)?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn a_server_on_the_same_host_keeps_its_sockets() -> Result<()> {
    let net = Topology::create()?;
    let server = edge(SERVER_PORT);
    let listener = RawListener::bind(&net.edge, server)?;
    let daemon = to_one(&net, server)?;
    stays(&daemon, (net.client.connect(edge(443))?, listener.accept()?), "same_host")?;
    daemon.stop()
}

#[test]
fn ends_of_two_address_families_keep_their_sockets() -> Result<()> {
    let net = Topology::create()?;
    let server = (BACKEND_IPV4, SERVER_PORT).into();
    let listener = RawListener::bind(&net.backend, server)?;
    let daemon = to_one(&net, server)?;
    stays(&daemon, (net.client.connect((EDGE_IPV6, 443).into())?, listener.accept()?), "address_families")?;
    daemon.stop()
}

#[test]
fn a_server_that_takes_fewer_options_than_the_client_offers_keeps_its_sockets() -> Result<()> {
    for option in ["tcp_timestamps", "tcp_sack"] {
        let site = site()?;
        set(&site.net.backend, option, "0")?;
        stays(&site.daemon, site.flow()?, "tcp_options")?;
        site.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_client_that_asks_for_congestion_marks_keeps_its_sockets() -> Result<()> {
    let site = site()?;
    set(&site.net.client, "tcp_ecn", "1")?;
    stays(&site.daemon, site.flow()?, "tcp_options")?;
    site.daemon.stop()
}

#[test]
fn an_interface_that_is_no_ethernet_keeps_its_flows_sockets() -> Result<()> {
    let net = Topology::create()?;
    let _tunnel = Tunnel::between("tun", [(&net.edge, "10.9.0.1/24"), (&net.backend, "10.9.0.2/24")])?;
    let server: SocketAddr = "10.9.0.2:9443".parse()?;
    let listener = RawListener::bind(&net.backend, server)?;
    let daemon = to_one(&net, server)?;
    stays(&daemon, (net.client.connect(edge(443))?, listener.accept()?), "device")?;
    daemon.stop()
}

/// No refusal: the programs are at all interfaces.
#[test]
fn a_flow_whose_packets_come_in_another_way_than_they_go_out_leaves_as_well() -> Result<()> {
    let site = site()?;
    let (client, edge_side) = (&site.net.client, &site.net.edge);
    let second = format!("link add name other type veth peer name other netns {}\n", client.name());
    edge_side.ip_batch(&(second + "link set other up\naddress add 10.3.0.1/24 dev other\n"))?;
    client.ip_batch("link set other up\naddress add 10.3.0.2/24 dev other\n")?;
    client.ip_batch("route add 10.1.0.1/32 via 10.3.0.1 dev other src 10.1.0.2\n")?;
    let (mut client, mut server) = site.flow()?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 1 << 20)?;
    transfer(&mut server, &mut client, 3, 1 << 20)?;
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn a_client_with_a_tiny_window_keeps_its_sockets() -> Result<()> {
    let site = site()?;
    let client = site.net.client.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(2304)?;
        socket.connect(&edge(10943).into())?;
        Ok(TcpStream::from(socket))
    })?;
    let flow = (client, site.polling.accept()?);
    stays(&site.daemon, flow, "small_window")?;
    site.daemon.stop()
}

#[test]
fn a_reader_that_stops_keeps_the_sockets_until_it_goes_on() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1s"))?;
    let (mut client, mut server) = site.flow()?;
    let sent = fill(&mut client, 1 << 28)?;
    ensure!(sent < 1 << 28, "the reader was not waited for");
    wait_for_reason(&site.daemon, "backlog")?;
    keyed::receive(&mut server, 1, sent)?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 1 << 20)?;
    transfer(&mut server, &mut client, 3, 1 << 20)?;
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn without_ports_of_its_own_no_flow_leaves_and_the_status_says_why() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet_line("ports = \"40000-40100\""))?;
    let status = site.daemon.status()?.datapaths.packet;
    let reason = status.reason.unwrap_or_default();
    ensure!(!status.available && reason.contains("ip_local_reserved_ports"), "{reason}");
    stays(&site.daemon, site.flow()?, "unavailable")?;
    site.daemon.stop()
}

/// Of two maps of this size the one whose elements are as large; a lock stands before the words of a hand-over.
fn hand_overs(daemon: &Daemon) -> Result<WordMap> {
    Ok(WordMap::of(daemon.hash_map(MAX_HANDOVERS, 4 * (1 + HANDOVER_WORDS))?, 1 + HANDOVER_WORDS))
}

#[test]
fn without_room_in_the_maps_a_flow_keeps_its_sockets_until_there_is_some() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1s"))?;
    let map = hand_overs(&site.daemon)?;
    // The daemon counts its own from 1 on.
    let others = || (0..u32::try_from(MAX_HANDOVERS).unwrap_or(u32::MAX)).map(|number| [u32::MAX - number]);
    for number in others() {
        map.put(&number, &[0; 1 + HANDOVER_WORDS])?;
    }
    let (mut client, mut server) = site.flow()?;
    wait_for_reason(&site.daemon, "map_full")?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    others().try_for_each(|number| map.remove(&number))?;
    site.daemon.wait_for_packets(1)?;
    transfer(&mut client, &mut server, 2, 1 << 20)?;
    transfer(&mut server, &mut client, 3, 1 << 20)?;
    drop((client, server));
    site.daemon.stop()
}
