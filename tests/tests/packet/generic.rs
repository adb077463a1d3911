//! XDP in generic mode beside offloaded connections: the kernel then shows packets without their Ethernet headers (Linux 6.12 and later).

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use harness::daemon::{Config, Datapath, Launch};
use harness::netns::{BACKEND_IPV4, BACKEND_IPV6, EDGE_IPV4, EDGE_IPV6, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::wire::{Program, interface_number};

use crate::outlive::kill;
use crate::{counted, site};

const SERVER_PORT: u16 = 9443;

const XDP_PASS: u32 = 2;

/// Enough for large packets, and for those that are sent again.
const BULK: u64 = 4 << 20;

/// A daemon whose guard is in generic mode follows on one without.
fn comes_later(is_ipv6: bool) -> Result<()> {
    let (backend, edge): (SocketAddr, SocketAddr) = if is_ipv6 {
        ((BACKEND_IPV6, SERVER_PORT).into(), (EDGE_IPV6, 443).into())
    } else {
        ((BACKEND_IPV4, SERVER_PORT).into(), (EDGE_IPV4, 443).into())
    };
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let listener = RawListener::bind(&net.backend, backend)?;
    let config = || {
        let config = Config::new().listen_to("one", "[::]:443", "one").upstream("one", backend);
        config.datapath(Datapath::Packet).packet(&pins, "0s")
    };
    let connect = || -> Result<(TcpStream, TcpStream)> {
        let mut client = net.client.connect(edge)?;
        let mut server = listener.accept()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        Ok((client, server))
    };
    let mut daemon = Launch::new()?.start(&net.edge, &config())?;
    let mut flows = vec![connect()?, connect()?];
    daemon.wait_for_packets(2)?;
    kill(&mut daemon)?;
    let guarded = config().guards(&["client", "backend"], "mode = \"generic\"\n");
    let daemon = Launch::new()?.start(&net.edge, &guarded)?;
    let attached = daemon.metrics()?.sum("snisplice_guard_attached", &[("mode", "generic")]);
    ensure!((attached - 2.0).abs() < 0.1, "{attached} guards in generic mode");
    daemon.wait_for_packets(2)?;
    let before = counted(&daemon)?;
    flows.push(connect()?);
    daemon.wait_for_packets(3)?;
    for (client, server) in &mut flows {
        transfer(client, server, 2, BULK)?;
        transfer(server, client, 3, BULK)?;
    }
    let after = counted(&daemon)?;
    ensure!(
        after.forwarded_bytes - before.forwarded_bytes >= 5 * BULK,
        "not forwarded: {before:?} {after:?}"
    );
    ensure!(after.untranslatable == before.untranslatable, "{after:?}");
    for (client, mut server) in flows {
        finish(&client)?;
        expect_ending(&mut server, Ending::Eof)?;
        finish(&server)?;
        let mut client = client;
        expect_ending(&mut client, Ending::Eof)?;
        let access = daemon.wait_for_access(client.local_addr()?)?;
        ensure!(access.reason == "eof" && access.datapath.as_deref() == Some("packet"), "{access:?}");
    }
    daemon.stop()
}

/// Somebody else's program comes while connections are offloaded, and goes again: in generic mode, and as the driver's.
#[test]
fn a_program_of_somebody_else_makes_no_difference_either() -> Result<()> {
    let site = site()?;
    let mut flows = vec![site.flow()?];
    let other = Program::that_says(XDP_PASS)?;
    for is_native in [false, true] {
        for (client, server) in &mut flows {
            transfer(client, server, 1, 1000)?;
        }
        site.daemon.wait_for_packets(flows.len())?;
        let attach = |name: &str| interface_number(name).and_then(|number| other.attach(number, is_native));
        let held = site.net.edge.enter(|| Ok([attach("client")?, attach("backend")?]))?;
        let before = counted(&site.daemon)?;
        flows.push(site.flow()?);
        for (client, server) in &mut flows {
            transfer(client, server, 2, BULK)?;
            transfer(server, client, 3, BULK)?;
        }
        site.daemon.wait_for_packets(flows.len())?;
        drop(held);
        for (client, server) in &mut flows {
            transfer(client, server, 4, BULK)?;
        }
        let after = counted(&site.daemon)?;
        ensure!(after.forwarded_bytes - before.forwarded_bytes >= 4 * BULK, "{before:?} {after:?}");
    }
    drop(flows);
    site.daemon.stop()
}

#[test]
fn a_guard_in_generic_mode_breaks_no_connection_and_keeps_none_from_being_offloaded() -> Result<()> {
    comes_later(false)
}

#[test]
fn so_it_is_by_ipv6() -> Result<()> {
    comes_later(true)
}
