//! Another BPF program has its hands on the daemon's sockets: no byte is lost, whoever came first.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::Result;
use harness::daemon::Datapath;
use harness::keyed;
use harness::netns::{BpfMap, BpfVerdict};
use harness::peers::raw::{Ending, expect_ending, fill, finish, transfer};
use harness::site::{RawSite, config, polling_hello};

const BYTES: u64 = 8 * 1024 * 1024;

fn site() -> Result<RawSite> {
    RawSite::start(&config().datapath(Datapath::Sockmap))
}

/// Bytes go both ways, exactly, and then both ends.
fn carry(site: &RawSite, mut client: TcpStream, mut server: TcpStream, datapath: &str) -> Result<()> {
    transfer(&mut client, &mut server, 1, BYTES)?;
    transfer(&mut server, &mut client, 2, BYTES)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some(datapath)), "{access:?}");
    assert_eq!((access.bytes_in, access.bytes_out), (polling_hello().len() as u64 + BYTES, BYTES));
    Ok(())
}

#[test]
fn a_socket_that_another_program_has_already_is_copied() -> Result<()> {
    let site = site()?;
    let foreign = BpfMap::of_sockets(4)?;
    foreign.attach_verdict(&BpfVerdict::that_passes()?)?;
    let mut client = site.connect()?;
    let address = client.local_addr()?.to_string();
    site.daemon.wait_for_flow("the connection to be accepted", |flow| flow.client == address)?;
    foreign.insert(&0_u32.to_ne_bytes(), &site.daemon.socket_to(client.local_addr()?)?)?;

    let hello = polling_hello();
    client.write_all(&hello)?;
    let server = site.polling.accept_after(&hello)?;
    carry(&site, client, server, "copy")?;
    let labels = [("from", "sockmap"), ("reason", "kernel_refused")];
    site.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    site.daemon.stop()
}

/// Bytes that wait behind a foreign verdict are seen by reading only, also once the stream's end is known.
#[test]
fn what_waits_behind_another_program_comes_before_the_end() -> Result<()> {
    let site = site()?;
    let foreign = BpfMap::of_sockets(4)?;
    foreign.attach_verdict(&BpfVerdict::that_passes()?)?;
    let mut client = site.connect()?;
    let address = client.local_addr()?.to_string();
    site.daemon.wait_for_flow("the connection to be accepted", |flow| flow.client == address)?;
    foreign.insert(&0_u32.to_ne_bytes(), &site.daemon.socket_to(client.local_addr()?)?)?;
    let hello = polling_hello();
    client.write_all(&hello)?;
    let mut server = site.polling.accept_after(&hello)?;

    // As much as the way holds, and the end right behind it.
    let sent = fill(&mut client, 8 * BYTES)?;
    finish(&client)?;
    keyed::receive(&mut server, 1, sent)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("copy")), "{access:?}");
    site.daemon.stop()
}

#[test]
fn another_program_cannot_take_a_spliced_socket_away() -> Result<()> {
    let site = site()?;
    let foreign = BpfMap::of_sockets(4)?;
    foreign.attach_verdict(&BpfVerdict::that_passes()?)?;
    let (client, server) = site.flow()?;
    for (index, peer) in [(0_u32, client.local_addr()?), (1, server.local_addr()?)] {
        let refused = foreign.insert(&index.to_ne_bytes(), &site.daemon.socket_to(peer)?);
        assert_eq!(refused.err().and_then(|error| error.raw_os_error()), Some(libc::EBUSY));
    }
    carry(&site, client, server, "sockmap")?;
    site.daemon.stop()
}

/// A map without a program may hold a spliced socket too. Taking it out of there again must not stop the splice.
#[test]
fn another_map_may_hold_a_spliced_socket_and_let_it_go() -> Result<()> {
    let site = site()?;
    let foreign = BpfMap::of_sockets(4)?;
    let (mut client, mut server) = site.flow()?;
    for (index, peer) in [(0_u32, client.local_addr()?), (1, server.local_addr()?)] {
        foreign.insert(&index.to_ne_bytes(), &site.daemon.socket_to(peer)?)?;
    }
    transfer(&mut client, &mut server, 3, 100_000)?;
    for index in [0_u32, 1] {
        foreign.delete(&index.to_ne_bytes())?;
    }
    transfer(&mut server, &mut client, 4, 100_000)?;
    drop((client, server));
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
