//! Packets that are not what they seem, and clients that come back where nobody expects them.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use harness::daemon::Packet;
use harness::deadline::{PATIENCE, wait_for};
use harness::guard::frame::{ACK, FIN, Frame, RST, SYN};
use harness::netns::edge;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::site::{POLLING_PORT, RawSite, SHARED_PORT, polling_hello};
use harness::wire::{Forged, FrameSocket, addressed, hardware_address, interface_number, vanish};

use crate::{counted, site};

/// A flow that has left its sockets.
fn gone(site: &RawSite) -> Result<(TcpStream, TcpStream)> {
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    Ok((client, server))
}

/// That it goes on without them, and ends in order.
fn goes_on(site: &RawSite, (mut client, mut server): (TcpStream, TcpStream)) -> Result<()> {
    transfer(&mut client, &mut server, 5, 100_000)?;
    transfer(&mut server, &mut client, 6, 100_000)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "eof" && access.datapath.as_deref() == Some("packet"), "{access:?}");
    Ok(())
}

fn wait_for_count(site: &RawSite, what: &str, wanted: impl Fn(&Packet) -> bool) -> Result<Packet> {
    let found = wait_for(what, PATIENCE, || counted(&site.daemon).ok().filter(&wanted));
    found.with_context(|| format!("{:?}", counted(&site.daemon)))
}

#[test]
fn ends_and_resets_outside_the_window_are_not_believed() -> Result<()> {
    let site = site()?;
    let flow = gone(&site)?;
    let before = counted(&site.daemon)?.invalid;
    let (client, listener) = (flow.0.local_addr()?, edge(SHARED_PORT));
    let (server, near) = (flow.1.local_addr()?, flow.1.peer_addr()?);
    for number in 0..8_u32 {
        for flags in [RST, RST | ACK, FIN | ACK] {
            // One of them may be near by chance, once in some hundred runs.
            let seq = number.wrapping_mul(0x2000_0000);
            Forged::new(client, listener, flags, seq).send(&site.net.client)?;
            Forged::new(server, near, flags, seq).send(&site.net.backend)?;
        }
    }
    wait_for_count(&site, "the forged packets to be counted", |now| now.invalid >= before + 48)?;
    goes_on(&site, flow)?;
    let record = site.daemon.access().pop().context("no record")?;
    ensure!((record.bytes_out, record.bytes_in) == (100_000, 101_000 + hello_bytes()), "{record:?}");
    site.daemon.stop()
}

fn hello_bytes() -> u64 {
    u64::try_from(polling_hello().len()).unwrap_or(0)
}

#[test]
fn a_forged_beginning_of_a_connection_does_not_end_the_one_that_there_is() -> Result<()> {
    let site = site()?;
    let flow = gone(&site)?;
    let before = counted(&site.daemon)?.forwarded;
    let (client, listener) = (flow.0.local_addr()?, edge(SHARED_PORT));
    for number in 0..8 {
        Forged::new(client, listener, SYN, number * 0x1fff_0001).send(&site.net.client)?;
    }
    wait_for_count(&site, "the forged packets to be sent on", |now| now.forwarded >= before + 8)?;
    goes_on(&site, flow)?;
    site.daemon.stop()
}

#[test]
fn a_client_that_has_lost_its_connection_may_use_its_port_again() -> Result<()> {
    let site = site()?;
    let from = SocketAddr::new(harness::netns::CLIENT_IPV4, 23_456);
    let connect = || site.net.client.connect_from(from, edge(POLLING_PORT));
    let mut client = connect()?;
    let mut server = site.polling.accept()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    vanish(client)?;
    // Its first packet goes to the server, which asks what that is; the client's answer ends the old connection. A process that another
    // test is just starting may have the old socket, too, for a moment.
    let mut client = wait_for("the port to be free", PATIENCE, || connect().ok())?;
    expect_ending(&mut server, Ending::Reset)?;
    let mut server = site.polling.accept()?;
    transfer(&mut client, &mut server, 2, 100_000)?;
    transfer(&mut server, &mut client, 3, 100_000)?;
    site.daemon.wait_for_packets(1)?;
    let record = site.daemon.wait_for_access(from)?;
    // What the first packet of another connection says is nothing about this one.
    ensure!(
        record.reason == "client_reset" && (record.bytes_in, record.bytes_out) == (1000, 0),
        "{record:?}"
    );
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn forged_fragments_do_no_harm() -> Result<()> {
    const MORE: u16 = 0x2000;
    let site = site()?;
    let flow = gone(&site)?;
    let (client, listener) = (flow.0.local_addr()?, edge(SHARED_PORT));
    let before = counted(&site.daemon)?.untranslatable;
    for fragment in [MORE, 1, MORE | 3, 0] {
        let segment = Forged { payload: vec![7; 24], fragment, ..Forged::new(client, listener, ACK, 9) };
        segment.send(&site.net.client)?;
    }
    // A packet that lacks its beginning is never whole: the host has nothing to answer.
    wait_for_count(&site, "the first fragment to be dropped", |now| now.untranslatable > before)?;
    goes_on(&site, flow)?;
    site.daemon.stop()
}

#[test]
fn frames_with_a_tag_are_not_taken_for_those_of_the_flow() -> Result<()> {
    let site = site()?;
    let flow = gone(&site)?;
    let before = counted(&site.daemon)?.invalid;
    let address = flow.0.local_addr()?;
    let reset = Frame {
        ports: (address.port(), SHARED_PORT),
        ..Frame::new(address.ip(), edge(SHARED_PORT).ip(), SHARED_PORT, RST)
    };
    let to = hardware_address(&site.net.edge, "client")?;
    let socket = site.net.client.enter(|| Ok(FrameSocket::open(interface_number("edge")?)?))?;
    let frame = |tags: Vec<u16>| addressed(Frame { tags, ..reset.clone() }.bytes(), to);
    // Only the last one is the flow's.
    socket.send(&[frame(vec![0x8100]), frame(vec![0x88a8, 0x8100]), frame(Vec::new())])?;
    let after = wait_for_count(&site, "the last frame to be counted", |now| now.invalid > before)?;
    assert_eq!(after.invalid, before + 1);
    goes_on(&site, flow)?;
    site.daemon.stop()
}
