//! Flows that get sockets again, and leave them again, by order.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use harness::MIB;
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::impair::{Badness, Impaired};
use harness::netns::{BACKEND_IPV6, EDGE_IPV6, Topology};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, reset, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};

use crate::{counted, site};

const SERVER_PORT: u16 = 9443;

fn moves(daemon: &Daemon, what: &str) -> Result<f64> {
    Ok(daemon.metrics()?.sum("snisplice_packet_moves_total", &[("what", what)]))
}

/// The two ends see nothing of it; bytes count on, and so does the id.
fn there_and_back(daemon: &Daemon, client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    transfer(client, server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    transfer(client, server, 2, MIB)?;
    transfer(server, client, 3, 2 * MIB)?;
    let address = client.local_addr()?;
    let id = daemon.id_of(address)?;
    let text = daemon.order("restore", &[id])?;
    ensure!(text == format!("restored {id}\n"), "{text}");
    let listed = daemon.flows()?;
    ensure!(
        listed.iter().any(|flow| flow.id == id && flow.datapath.as_deref() == Some("copy")),
        "{listed:?}"
    );
    let before = counted(daemon)?;
    transfer(client, server, 4, MIB)?;
    transfer(server, client, 5, MIB)?;
    let after = counted(daemon)?;
    assert_eq!(before.forwarded_bytes, after.forwarded_bytes, "bytes went past the sockets");
    let text = daemon.order("offload", &[id])?;
    ensure!(text == format!("offloaded {id}\n"), "{text}");
    let before = counted(daemon)?;
    transfer(client, server, 6, MIB)?;
    transfer(server, client, 7, MIB)?;
    let after = counted(daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 2 * MIB, "{before:?} {after:?}");
    daemon.order("restore", &[id])?;
    transfer(server, client, 8, 1000)?;
    finish(client)?;
    expect_ending(server, Ending::Eof)?;
    transfer(server, client, 9, 1000)?;
    finish(server)?;
    expect_ending(client, Ending::Eof)?;
    let access = daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("copy")), "{access:?}");
    assert_eq!(access.bytes_out, 4 * MIB + 2000, "{access:?}");
    ensure!(access.bytes_in >= 3 * MIB + 1000 && access.bytes_in < 3 * MIB + 2000, "{access:?}");
    assert_eq!((moves(daemon, "offloaded")?, moves(daemon, "restored")?), (2.0, 2.0));
    let total = daemon.metrics()?.sum("snisplice_bytes_total", &[]);
    #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
    let said = (access.bytes_in + access.bytes_out) as f64;
    assert!((total - said).abs() < 0.5, "the metrics have {total} bytes, the record {said}");
    Ok(())
}

#[test]
fn a_flow_gets_sockets_again_and_leaves_them_again() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    there_and_back(&site.daemon, &mut client, &mut server)?;
    site.daemon.stop()
}

#[test]
fn so_does_one_by_ipv6() -> Result<()> {
    let server: std::net::SocketAddr = (BACKEND_IPV6, SERVER_PORT).into();
    let net = Topology::create()?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config =
        Config::new().listen_to("six", "[::]:443", "six").upstream("six", server).datapath(Datapath::Packet);
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    let mut client = net.client.connect((EDGE_IPV6, 443).into())?;
    let mut server = listener.accept()?;
    there_and_back(&daemon, &mut client, &mut server)?;
    daemon.stop()
}

#[test]
fn a_flow_of_an_earlier_daemon_gets_sockets_too_with_its_names_or_without() -> Result<()> {
    for has_journal in [true, false] {
        let pins = Pins::create()?;
        let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
        let mut site = RawSite::start(&config)?;
        let (mut client, mut server) = site.flow()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        site.daemon.wait_for_packets(1)?;
        pins.wait_for_journal(1)?;
        site.daemon.signal(libc::SIGKILL)?;
        site.daemon.wait_for_exit(PATIENCE)?;
        if !has_journal {
            std::fs::remove_file(pins.journal())?;
        }
        site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
        site.daemon.wait_for_packets(1)?;
        let id = site.daemon.id_of(client.local_addr()?)?;
        site.daemon.order("restore", &[id])?;
        transfer(&mut client, &mut server, 2, MIB)?;
        transfer(&mut server, &mut client, 3, MIB)?;
        site.daemon.order("offload", &[id])?;
        transfer(&mut client, &mut server, 4, MIB)?;
        reset(client)?;
        expect_ending(&mut server, Ending::Reset)?;
        site.daemon.wait_for_idle()?;
        site.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_flow_whose_one_side_has_ended_stays_and_goes_on() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let id = site.daemon.id_of(client.local_addr()?)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    let ended = site.daemon.command("restore", &[&id.to_string()])?;
    ensure!(ended.code == Some(69) && ended.stderr.contains("one side has closed its stream"), "{ended:?}");
    transfer(&mut server, &mut client, 2, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn who_orders_what_cannot_be_is_told_why() -> Result<()> {
    let site = RawSite::start(&config().datapath(Datapath::Copy))?;
    let (client, server) = site.flow()?;
    let id = site.daemon.id_of(client.local_addr()?)?.to_string();
    for (verb, text) in [("offload", "datapath = \"packet\""), ("restore", "has its sockets")] {
        let ended = site.daemon.command(verb, &[&id])?;
        ensure!(ended.code == Some(69) && ended.stderr.contains(text), "{ended:?}");
    }
    drop((client, server));
    site.daemon.stop()
}

/// The programs forward what is held when the daemon that held it does not come back, and so does the next one: it is killed at
/// many moments, and every flow that had no sockets yet goes on.
#[test]
fn a_daemon_that_is_killed_while_it_takes_flows_back_leaves_none_hanging() -> Result<()> {
    for (moment, is_followed) in (0..8_u64).flat_map(|moment| [(moment, false), (moment, true)]) {
        let pins = Pins::create()?;
        let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
        let mut site = RawSite::start(&config)?;
        let mut flows = (0..6).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
        for (client, server) in &mut flows {
            transfer(client, server, 1, 1000)?;
        }
        site.daemon.wait_for_packets(6)?;
        let ids: Vec<u64> = site.daemon.flows()?.iter().map(|flow| flow.id).collect();
        thread::scope(|scope| {
            scope.spawn(|| drop(site.daemon.order("restore", &ids)));
            harness::deadline::dawdle(std::time::Duration::from_millis(8 + 9 * moment));
            site.daemon.signal(libc::SIGKILL)
        })?;
        site.daemon.wait_for_exit(PATIENCE)?;
        let mut found = None;
        if is_followed {
            site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
            found = Some(site.daemon.flows()?);
        }
        for (client, server) in &mut flows {
            let address = client.local_addr()?;
            if transfer(client, server, 2, 3000).is_ok() {
                transfer(server, client, 3, 3000)?;
                continue;
            }
            let is_found = found.iter().flatten().any(|flow| flow.client == address.to_string());
            ensure!(!is_found, "a flow that was found again does not go on");
            drop(server.write_all(b"x"));
            for end in [client, server] {
                harness::peers::raw::read_to_ending(end).context("an end hangs")?;
            }
        }
    }
    Ok(())
}

/// Nothing reaches the server, so that the daemon waits with what it holds, and is killed meanwhile.
#[test]
fn a_flow_that_was_held_when_its_daemon_was_killed_goes_on_with_the_next() -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "0s");
    let mut site = RawSite::start(&config)?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let id = site.daemon.id_of(client.local_addr()?)?;
    let bad = Badness { lost: 1_000_000, ..Badness::default() };
    let impaired = Impaired::at(&site.net.backend, "edge", bad)?;
    client.write_all(b"x")?;
    let mut lost = 1;
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| drop(site.daemon.order("restore", &[id])));
        wait_for("packets that are held", PATIENCE, || {
            lost += client.write(b"x").ok()?;
            (counted(&site.daemon).ok()?.held > 0).then_some(())
        })?;
        site.daemon.signal(libc::SIGKILL)
    })?;
    site.daemon.wait_for_exit(PATIENCE)?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    drop(impaired);
    server.read_exact(&mut vec![0; lost])?;
    transfer(&mut client, &mut server, 2, MIB)?;
    transfer(&mut server, &mut client, 3, MIB)?;
    site.daemon.wait_for_packets(1)?;
    site.daemon.order("restore", &[site.daemon.id_of(client.local_addr()?)?])?;
    transfer(&mut client, &mut server, 4, 1000)?;
    reset(client)?;
    expect_ending(&mut server, Ending::Reset)?;
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
