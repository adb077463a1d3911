//! A foreign hand takes the kernel part away in mid-flow. Bytes may be gone then: both peers get a reset, never a clean end
//! of a cut stream, and nothing hangs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use harness::carrier::CARRIERS;
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::kernel_log::KernelLog;
use harness::netns::{BpfLink, BpfMap, BpfVerdict};
use harness::peers::raw::{Ending, expect_ending, fill, finish, is_reset, read_to_ending, transfer};
use harness::site::{RawSite, config, config_of, polling_hello};

/// Each flow looks after itself every second.
fn site() -> Result<RawSite> {
    RawSite::start(&config().datapath(Datapath::Sockmap).timeout("keepalive", "4s"))
}

fn expect_lost(site: &RawSite, client: SocketAddr) -> Result<()> {
    let access = site.daemon.wait_for_access(client)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("kernel_lost", Some("sockmap")));
    site.daemon.wait_for_log("something else has taken it out of our BPF map")?;
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", "kernel_lost")], 1.0)
}

/// Reads a stream that must not end in order.
fn expect_reset(stream: &mut TcpStream) -> Result<u64> {
    let (bytes, ending) = read_to_ending(stream)?;
    ensure!(ending == Ending::Reset, "{bytes} bytes, and then {ending:?}");
    Ok(bytes)
}

/// To be called before bytes that move are taken away: one read may be on its way.
fn announce(log: Option<&KernelLog>) -> Result<()> {
    log.map_or(Ok(()), |_| KernelLog::announce_one())
}

/// What the kernel has lost it must not be asked for: one read of each of `connections` may have been on its way. Each further
/// one is a warning with a stack trace in the kernel's log, and the end of a host where `panic_on_warn` is set.
fn expect_quiet(log: Option<KernelLog>, site: &RawSite, connections: usize) -> Result<()> {
    let Some(mut log) = log else { return Ok(()) };
    let warnings = log.warnings_of(&site.daemon)?;
    ensure!(
        warnings.len() <= connections,
        "{} warnings of the kernel: {:?}",
        warnings.len(),
        warnings.first()
    );
    Ok(())
}

/// Takes one socket of the map, the other, or both out of it while nothing moves.
fn idle_flow_loses(which: [bool; 2]) -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    transfer(&mut server, &mut client, 2, 100_000)?;
    let map = site.daemon.socket_map()?;
    let keys = map.keys()?;
    assert_eq!(keys.len(), 2);
    for key in keys.iter().zip(which).filter_map(|(key, taken)| taken.then_some(key)) {
        map.delete(key)?;
    }
    let address = client.local_addr()?;
    client.write_all(b"is anybody there?")?;
    server.write_all(b"is anybody there?")?;
    for end in [&mut client, &mut server] {
        expect_reset(end)?;
    }
    expect_lost(&site, address)?;
    site.daemon.stop()
}

#[test]
fn a_flow_whose_first_socket_is_taken_out_of_the_map_is_reset() -> Result<()> {
    idle_flow_loses([true, false])
}

#[test]
fn a_flow_whose_second_socket_is_taken_out_of_the_map_is_reset() -> Result<()> {
    idle_flow_loses([false, true])
}

#[test]
fn a_flow_whose_sockets_are_both_taken_out_of_the_map_is_reset() -> Result<()> {
    idle_flow_loses([true, true])
}

/// The kernel throws away what waits for a target that is taken out.
#[test]
fn bytes_that_waited_for_a_reader_are_gone_and_the_stream_never_looks_complete() -> Result<()> {
    if !KernelLog::may_warn() {
        return Ok(());
    }
    const MOST: u64 = 3 * 1024 * 1024;
    let site = site()?;
    let log = KernelLog::from_now()?;
    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?;
    let sent = fill(&mut server, MOST)?;
    finish(&server)?;
    announce(log.as_ref())?;
    let map = site.daemon.socket_map()?;
    for key in map.keys()? {
        // The end of a flow takes its sockets out as well.
        map.delete(&key)?;
    }
    client.read_exact(&mut [0; 1000])?;
    match read_to_ending(&mut client)? {
        // All was with the client already when the sockets were taken out.
        (bytes, Ending::Eof) => assert_eq!(bytes + 1000, sent, "a cut stream looks complete"),
        (bytes, Ending::Reset) => {
            assert!(bytes < sent);
            expect_lost(&site, address)?;
        }
    }
    drop((client, server));
    site.daemon.wait_for_idle()?;
    expect_quiet(log, &site, 1)?;
    site.daemon.stop()
}

/// Sends without end until the connection is reset.
fn send_until_reset(mut stream: TcpStream) -> Result<()> {
    let chunk = [7; 64 * 1024];
    let error = loop {
        match stream.write_all(&chunk) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    ensure!(is_reset(&error), "{error}");
    Ok(())
}

#[test]
fn a_flow_in_full_swing_that_is_taken_out_of_the_map_is_reset() -> Result<()> {
    if !KernelLog::may_warn() {
        return Ok(());
    }
    let site = site()?;
    let log = KernelLog::from_now()?;
    let map = site.daemon.socket_map()?;
    for _ in 0..4 {
        let (mut client, server) = site.flow()?;
        let address = client.local_addr()?;
        let sender = thread::spawn(|| send_until_reset(server));
        client.read_exact(&mut vec![0; 1_000_000])?;
        announce(log.as_ref())?;
        for key in map.keys()? {
            map.delete(&key)?;
        }
        expect_reset(&mut client)?;
        sender.join().expect("the sender panicked")?;
        expect_lost(&site, address)?;
    }
    expect_quiet(log, &site, 4)?;
    site.daemon.stop()
}

/// The server is on the daemon's host, and its bytes are peeked at before they are read.
#[test]
fn a_local_flow_that_is_taken_out_of_the_map_is_reset() -> Result<()> {
    if !KernelLog::may_warn() {
        return Ok(());
    }
    let carrier =
        CARRIERS.into_iter().find(|carrier| carrier.name == "local").expect("a datapath of this name");
    let site = RawSite::of(&carrier, &config_of(&carrier).timeout("keepalive", "4s"))?;
    let log = KernelLog::from_now()?;
    let (mut client, server) = site.flow()?;
    let address = client.local_addr()?;
    let sender = thread::spawn(|| send_until_reset(server));
    // Slowly, so that bytes wait for the client.
    client.read_exact(&mut vec![0; 100_000])?;
    site.daemon.wait_for_metric("snisplice_kernel_passed_bytes_total", &[], 1.0)?;
    announce(log.as_ref())?;
    let map = site.daemon.socket_map()?;
    for key in map.keys()? {
        map.delete(&key)?;
    }
    expect_reset(&mut client)?;
    sender.join().expect("the sender panicked")?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("kernel_lost", Some("local")));
    expect_quiet(log, &site, 1)?;
    site.daemon.stop()
}

/// The kernel has taken the server's socket, and not the client's: userspace copies what the verdict passes.
#[test]
fn a_copied_flow_with_one_socket_in_the_map_is_reset_when_that_is_taken_out() -> Result<()> {
    if !KernelLog::may_warn() {
        return Ok(());
    }
    let site = site()?;
    let log = KernelLog::from_now()?;
    let foreign = BpfMap::of_sockets(4)?;
    foreign.attach_verdict(&BpfVerdict::that_passes()?)?;
    let mut client = site.connect()?;
    let address = client.local_addr()?;
    site.daemon.wait_for_flow("the connection to be accepted", |flow| flow.client == address.to_string())?;
    foreign.insert(&0_u32.to_ne_bytes(), &site.daemon.socket_to(address)?)?;
    let hello = polling_hello();
    client.write_all(&hello)?;
    let mut server = site.polling.accept_after(&hello)?;
    transfer(&mut server, &mut client, 1, 1_000_000)?;
    fill(&mut server, 64 * 1024 * 1024)?;
    let map = site.daemon.socket_map()?;
    let keys = map.keys()?;
    assert_eq!(keys.len(), 1, "the server's socket, and no other");
    announce(log.as_ref())?;
    for key in keys {
        map.delete(&key)?;
    }
    let sender = thread::spawn(|| send_until_reset(server));
    expect_reset(&mut client)?;
    sender.join().expect("the sender panicked")?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("kernel_lost", Some("copy")));
    expect_quiet(log, &site, 1)?;
    site.daemon.stop()
}

fn by_datapath(
    site: &RawSite,
    (mut client, mut server): (TcpStream, TcpStream),
    datapath: &str,
) -> Result<()> {
    transfer(&mut client, &mut server, 3, 1_000_000)?;
    transfer(&mut server, &mut client, 4, 1_000_000)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some(datapath)));
    Ok(())
}

#[test]
fn a_program_that_another_one_has_detached_is_attached_again() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    site.daemon.socket_map()?.detach_verdict(&site.daemon.verdict()?)?;
    site.daemon.wait_for_metric("snisplice_sockmap_reattached_total", &[], 1.0)?;
    let line = site.daemon.wait_for_log("it is attached again")?;
    ensure!(line.contains("ERROR") && line.contains("sockmap"), "{line}");
    ensure!(site.daemon.status()?.datapaths.sockmap.available, "it is not available");
    // Sockets that were in the map keep their program.
    let late = site.flow()?;
    for flow in [(client, server), late] {
        by_datapath(&site, flow, "sockmap")?;
    }
    site.daemon.stop()
}

/// A link of another program (Linux 6.10) keeps ours away.
#[test]
fn without_its_program_the_datapath_is_used_no_more_until_it_can_be() -> Result<()> {
    let site = RawSite::start(
        &config()
            .datapath(Datapath::Sockmap)
            .timeout("keepalive", "4s")
            .admin_line("ready_requires = [\"sockmap\"]"),
    )?;
    let early = site.flow()?;
    let link = match BpfLink::of_verdict(&site.daemon.socket_map()?, &BpfVerdict::that_passes()?) {
        Ok(link) => link,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            println!("SKIPPED: this kernel has no links of maps of sockets: {error}");
            drop(early);
            return site.daemon.stop();
        }
        Err(error) => return Err(error.into()),
    };
    let reason = wait_for("the daemon to notice", PATIENCE, || {
        let sockmap = site.daemon.status().ok()?.datapaths.sockmap;
        sockmap.reason.filter(|_| !sockmap.available)
    })?;
    assert!(reason.contains("detached"), "{reason}");
    assert_eq!(site.daemon.metrics()?.sum("snisplice_sockmap_available", &[]).to_string(), "0");
    site.daemon.wait_for_log("sockmap datapath is lost")?;
    let ready = site.daemon.get("/readyz")?;
    ensure!(ready.status == 503 && ready.body.contains("sockmap"), "{ready:?}");
    let late = site.flow()?;
    by_datapath(&site, late, "copy")?;
    by_datapath(&site, early, "sockmap")?;
    let labels = [("from", "sockmap"), ("reason", "unavailable")];
    site.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &labels, 1.0)?;
    let told = site.daemon.log().iter().filter(|line| line.contains("sockmap datapath is lost")).count();
    assert_eq!(told, 1);

    drop(link);
    wait_for("the datapath to be back", PATIENCE, || {
        site.daemon.status().ok()?.datapaths.sockmap.available.then_some(())
    })?;
    by_datapath(&site, site.flow()?, "sockmap")?;
    site.daemon.stop()
}

/// The program that is asked about what servers on this host send.
#[test]
fn a_bypass_that_another_one_has_detached_is_attached_again() -> Result<()> {
    let carrier = CARRIERS.iter().find(|carrier| carrier.name == "local").context("no such carrier")?;
    let site = RawSite::of(carrier, &config_of(carrier))?;
    site.daemon.detach_bypass()?;
    site.daemon.wait_for_metric("snisplice_sockmap_reattached_total", &[], 1.0)?;
    by_datapath(&site, site.flow()?, "local")?;
    site.daemon.stop()
}
