//! The map of spliced sockets is full: what comes then is copied, untouched by the attempt.

use std::net::TcpStream;

use anyhow::Result;
use harness::daemon::{Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::BpfMap;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::site::{RawSite, config, polling_hello};

/// The map has room for as many sockets as the daemon may open.
const FILES: [&str; 2] = ["prlimit", "--nofile=288:288"];
const ROOM: u64 = 288;

const BYTES: u64 = 1024 * 1024;

/// Fills the map with sockets that nobody uses, but for `free` places. They leave it when they are closed.
fn fill(site: &RawSite, map: &BpfMap, free: u64) -> Result<Vec<TcpStream>> {
    let listener = site.net.edge.listen(([127, 0, 0, 1], 0).into())?;
    let mut fillers = Vec::new();
    // The daemon's keys are cookies, which count up from 1.
    for key in (0..ROOM - free).map(|number| u64::MAX - number) {
        let socket = site.net.edge.connect(listener.local_addr()?)?;
        map.insert(&key.to_ne_bytes(), &socket)?;
        fillers.extend([socket, listener.accept()?.0]);
    }
    Ok(fillers)
}

/// One flow, both ways and to its end.
fn expect_carried_by(site: &RawSite, datapath: &str) -> Result<()> {
    let (mut client, mut server) = site.flow()?;
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

/// `free` places are left: none, or one for the first of the two sockets of a flow.
fn full_but_for(free: u64) -> Result<()> {
    let site = RawSite::launch(&config().datapath(Datapath::Sockmap), &Launch::new()?.under(&FILES))?;
    expect_carried_by(&site, "sockmap")?;
    let map = site.daemon.socket_map()?;
    let fillers = fill(&site, &map, free)?;
    expect_carried_by(&site, "copy")?;
    let labels = [("from", "sockmap"), ("reason", "map_full")];
    site.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    assert!(site.daemon.status()?.datapaths.sockmap.available);

    drop(fillers);
    wait_for("the map to be empty", PATIENCE, || map.keys().ok()?.is_empty().then_some(()))?;
    expect_carried_by(&site, "sockmap")?;
    site.daemon.stop()
}

/// A flow that was copied, is refused by the kernel, and goes on being copied, ends as any other.
fn copied_before_and_after(free: u64) -> Result<()> {
    let site = RawSite::launch(&config().datapath(Datapath::Auto), &Launch::new()?.under(&FILES))?;
    let map = site.daemon.socket_map()?;
    let _fillers = fill(&site, &map, free)?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, BYTES)?;
    transfer(&mut server, &mut client, 2, 1)?;
    let labels = [("from", "sockmap"), ("reason", "map_full")];
    site.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    transfer(&mut client, &mut server, 3, BYTES)?;
    transfer(&mut server, &mut client, 4, BYTES)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("copy")), "{access:?}");
    assert_eq!((access.bytes_in, access.bytes_out), (polling_hello().len() as u64 + 2 * BYTES, BYTES + 1));
    site.daemon.stop()
}

#[test]
fn without_room_in_the_map_flows_go_on_being_copied() -> Result<()> {
    copied_before_and_after(0)
}

#[test]
fn with_room_for_one_socket_of_the_two_flows_go_on_being_copied() -> Result<()> {
    copied_before_and_after(1)
}

#[test]
fn without_room_in_the_map_flows_are_copied() -> Result<()> {
    full_but_for(0)
}

#[test]
fn with_room_for_one_socket_of_the_two_flows_are_copied() -> Result<()> {
    full_but_for(1)
}
