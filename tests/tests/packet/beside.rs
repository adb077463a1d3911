//! Two daemons in one network namespace, each with pins of its own.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::daemon::{ADMIN_PORT, Config, Datapath, Launch};
use harness::netns::{backend, edge};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{POLLING_PORT, RawSite, polling_hello};

use crate::outlive::{begin, config_with, kill};

const PORT: u16 = 9444;

/// A connection by a port that is in use gets no answer, and is given up after 5 s.
const AT_ONCE: Duration = Duration::from_secs(3);

fn second(pins: &Pins, ports: &str) -> Config {
    Config::new()
        .admin_port(ADMIN_PORT + 10)
        .listen_to("second", &format!("[::]:{PORT}"), "server")
        .upstream("server", backend(POLLING_PORT))
        .datapath(Datapath::Packet)
        .packet(pins, "0s")
        .packet_line(&format!("ports = \"{ports}\""))
}

fn flow(site: &RawSite) -> Result<(TcpStream, TcpStream, Duration)> {
    let (hello, begun) = (polling_hello(), Instant::now());
    let mut client = site.net.client.connect(edge(PORT))?;
    client.write_all(&hello)?;
    let server = site.polling.accept_after(&hello)?;
    Ok((client, server, begun.elapsed()))
}

#[test]
fn a_second_daemon_with_the_ports_of_another_one_says_so_and_its_connections_do_not_wait() -> Result<()> {
    let (pins, others) = (Pins::create()?, Pins::create()?);
    let site = RawSite::start(&config_with(&pins).packet_line("ports = \"61000-61007\""))?;
    let flows = begin(&site, 4)?;
    let daemon = Launch::new()?.start(&site.net.edge, &second(&others, "61000-61009"))?;
    let reason = daemon.status()?.datapaths.packet.reason.unwrap_or_default();
    ensure!(reason.contains("61000-61007") && reason.contains("set ports in [packet]"), "{reason}");
    for _ in 0..4 {
        let (mut client, mut server, took) = flow(&site)?;
        ensure!(took < AT_ONCE, "{took:?}");
        transfer(&mut client, &mut server, 1, 1000)?;
    }
    daemon.stop()?;
    drop(flows);
    site.daemon.stop()
}

/// Connections of the other daemon have ports that were its own, and are the second one's now.
#[test]
fn ports_of_connections_of_another_daemon_are_skipped() -> Result<()> {
    let (pins, others) = (Pins::create()?, Pins::create()?);
    let mut site = RawSite::start(&config_with(&pins).packet_line("ports = \"61000-61003\""))?;
    let mut flows = begin(&site, 4)?;
    kill(&mut site.daemon)?;
    let moved = config_with(&pins).packet_line("ports = \"62000-62009\"");
    site.daemon = Launch::new()?.start(&site.net.edge, &moved)?;
    site.daemon.wait_for_packets(4)?;
    let daemon = Launch::new()?.start(&site.net.edge, &second(&others, "61000-61007"))?;
    ensure!(daemon.status()?.datapaths.packet.available, "{:?}", daemon.status()?.datapaths.packet);
    let mut own = Vec::new();
    for number in 0..4 {
        let (mut client, mut server, took) = flow(&site)?;
        ensure!(took < AT_ONCE, "{took:?}");
        transfer(&mut client, &mut server, number, 1000)?;
        own.push((client, server));
    }
    daemon.wait_for_packets(4)?;
    for (client, server) in flows.iter_mut().chain(&mut own) {
        transfer(client, server, 9, 20_000)?;
        transfer(server, client, 8, 20_000)?;
    }
    drop((flows, own));
    daemon.stop()?;
    site.daemon.stop()
}

/// An interface has the filters of one daemon only. Neither of the two has any yet: it has no connection to offload.
#[test]
fn of_two_daemons_that_attach_filters_the_second_one_says_so_before_the_first_has_any() -> Result<()> {
    let (pins, others) = (Pins::create()?, Pins::create()?);
    let first = config_with(&pins).packet_line("ports = \"61000-61007\"").packet_line("attach = \"clsact\"");
    let site = RawSite::start(&first)?;
    let second = second(&others, "62000-62009").packet_line("attach = \"clsact\"");
    let daemon = Launch::new()?.start(&site.net.edge, &second)?;
    let packet = daemon.status()?.datapaths.packet;
    let reason = packet.reason.unwrap_or_default();
    ensure!(!packet.available && reason.contains("can have those of one only"), "{reason}");
    ensure!(site.daemon.status()?.datapaths.packet.available, "{:?}", site.daemon.status()?.datapaths.packet);
    drop(begin(&site, 1)?);
    daemon.stop()?;
    site.daemon.stop()
}
