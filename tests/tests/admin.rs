//! The daemon's own end: drained, hurried, and killed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use harness::daemon::{Daemon, Datapath, bpf_objects_of};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::keyed;
use harness::netns::{BpfKind, bpf_ids, edge};
use harness::peers::raw::{Ending, expect_ending, finish, is_reset, read_to_ending, transfer};
use harness::site::{RawSite, SHARED_PORT, config};

const MIB: u64 = 1024 * 1024;

/// The BPF objects of a daemon that uses sockmap.
struct BpfObjects {
    maps: Vec<u32>,
    programs: Vec<u32>,
}

impl BpfObjects {
    fn of(daemon: &Daemon) -> Result<Self> {
        let pid = daemon.pid();
        let found = Self { maps: bpf_objects_of(pid, "map_id")?, programs: bpf_objects_of(pid, "prog_id")? };
        assert!(!found.maps.is_empty() && !found.programs.is_empty(), "the daemon holds no BPF objects");
        Ok(found)
    }

    /// Waits until the kernel has none of them any more.
    fn wait_until_gone(&self) -> Result<()> {
        let gone = |kind, own: &[u32]| bpf_ids(kind).is_ok_and(|ids| own.iter().all(|id| !ids.contains(id)));
        wait_for("the daemon's BPF objects to be freed", PATIENCE, || {
            (gone(BpfKind::Map, &self.maps) && gone(BpfKind::Program, &self.programs)).then_some(())
        })
    }
}

/// Asks the daemon to end, and waits until it takes no more connections.
fn begin_drain(site: &RawSite) -> Result<()> {
    site.daemon.signal(libc::SIGTERM)?;
    wait_for("the daemon to be no longer ready", PATIENCE, || {
        (site.daemon.get("/readyz").ok()?.status == 503).then_some(())
    })?;
    let is_refusal = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    // The workers close their sockets one after the other.
    wait_for("new connections to be refused", Duration::from_secs(1), || {
        site.net.client.connect(edge(SHARED_PORT)).err()?.downcast_ref().is_some_and(is_refusal).then_some(())
    })
}

#[test]
fn a_drain_lets_the_running_transfer_complete_and_leaves_nothing() -> Result<()> {
    let mut site = RawSite::start(&config().datapath(Datapath::Sockmap))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, MIB)?;
    let objects = BpfObjects::of(&site.daemon)?;

    begin_drain(&site)?;
    assert_eq!(site.daemon.status()?.phase, "draining");
    assert_eq!(site.daemon.get("/livez")?.status, 200);
    transfer(&mut server, &mut client, 2, 16 * MIB)?;
    transfer(&mut client, &mut server, 3, 16 * MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;

    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    assert_eq!(site.daemon.wait_for_access(client.local_addr()?)?.reason, "eof");
    assert!(!site.daemon.admin_socket().exists(), "the admin socket is left");
    objects.wait_until_gone()
}

#[test]
fn an_idle_daemon_ends_at_once() -> Result<()> {
    RawSite::start(&config())?.daemon.stop()
}

#[test]
fn the_drain_timeout_ends_a_quiet_flow_with_eof() -> Result<()> {
    let mut site = RawSite::start(&config().timeout("drain", "1s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, 1000)?;
    begin_drain(&site)?;
    expect_ending(&mut client, Ending::Eof)?;
    expect_ending(&mut server, Ending::Eof)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    assert_eq!(site.daemon.wait_for_access(client.local_addr()?)?.reason, "drain");
    Ok(())
}

/// Sends without an end; returns what was sent when the connection breaks.
fn flood(mut from: TcpStream) -> JoinHandle<u64> {
    thread::spawn(move || {
        let chunk = vec![0; 64 * 1024];
        let mut sent = 0;
        while from.write_all(&chunk).is_ok() {
            sent += chunk.len() as u64;
        }
        sent
    })
}

/// Reads a flood in small sips, so that bytes are always under way.
fn sip_until_the_end(client: &mut TcpStream) -> Result<Ending> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match client.read(&mut chunk) {
            Ok(0) => return Ok(Ending::Eof),
            Ok(_) => dawdle(Duration::from_millis(2)),
            Err(error) if is_reset(&error) => return Ok(Ending::Reset),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn the_drain_timeout_resets_a_flow_in_mid_transfer() -> Result<()> {
    let mut site = RawSite::start(&config().timeout("drain", "1s"))?;
    let (mut client, server) = site.flow()?;
    let sender = flood(server);
    client.read_exact(&mut vec![0; 100_000])?;
    begin_drain(&site)?;
    assert_eq!(sip_until_the_end(&mut client)?, Ending::Reset, "a cut transfer looks complete");
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    assert!(sender.join().expect("the sender panicked") > 0);
    Ok(())
}

#[test]
fn a_second_sigterm_ends_the_daemon_at_once() -> Result<()> {
    let mut site = RawSite::start(&config().timeout("drain", "60s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, 1000)?;
    begin_drain(&site)?;
    site.daemon.signal(libc::SIGTERM)?;
    assert_eq!(site.daemon.wait_for_exit(Duration::from_secs(5))?.code(), Some(0));
    assert!(!site.daemon.admin_socket().exists(), "the admin socket is left");
    for end in [&mut client, &mut server] {
        assert_eq!(read_to_ending(end)?.0, 0);
    }
    Ok(())
}

#[test]
fn a_killed_daemon_resets_spliced_flows() -> Result<()> {
    let mut site = RawSite::start(&config().datapath(Datapath::Sockmap))?;
    let mut flows = Vec::new();
    for _ in 0..8 {
        let (mut client, server) = site.flow()?;
        let sender = flood(server);
        client.read_exact(&mut vec![0; 100_000])?;
        flows.push((client, sender));
    }
    let objects = BpfObjects::of(&site.daemon)?;
    site.daemon.signal(libc::SIGKILL)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), None);
    for (mut client, sender) in flows {
        assert_eq!(sip_until_the_end(&mut client)?, Ending::Reset, "a cut transfer looks complete");
        assert!(sender.join().expect("the sender panicked") > 0);
    }
    objects.wait_until_gone()
}

#[test]
fn the_admin_address_answers_like_the_socket() -> Result<()> {
    let site = RawSite::start(&config())?;
    for path in ["/livez", "/readyz", "/metrics", "/api/v1/status", "/api/v1/flows"] {
        assert_eq!(site.daemon.get(path)?.status, 200, "{path}");
        assert_eq!(site.daemon.get_over_tcp(path)?.status, 200, "{path}");
    }
    assert_eq!(site.daemon.get("/nowhere")?.status, 404);
    let status = site.daemon.status()?;
    assert_eq!((status.pid, status.phase.as_str()), (site.daemon.pid(), "running"));
    let names: Vec<_> = status.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["tls", "legacy"]);
    assert_eq!(site.daemon.metrics()?.samples_of("snisplice_build_info").len(), 1);
    site.daemon.stop()
}

#[test]
fn a_flow_is_listed_while_it_lives() -> Result<()> {
    let site = RawSite::start(&config())?;
    assert_eq!(site.daemon.flows()?.len(), 0);
    let (mut client, server) = site.flow()?;
    keyed::send(&mut client, 1, 1000)?;
    let address = client.local_addr()?.to_string();
    let flow = site.daemon.wait_for_flow("the flow with its bytes", |flow| flow.bytes_in > 1000)?;
    assert_eq!((&flow.client, flow.listener.as_str()), (&address, "tls"), "{flow:?}");
    assert_eq!(flow.route.as_deref(), Some("polling"), "{flow:?}");
    assert_eq!(flow.server, Some(server.local_addr()?.to_string()), "{flow:?}");
    assert_eq!(flow.upstream_local, Some(server.peer_addr()?.to_string()), "{flow:?}");
    assert_eq!(site.daemon.status()?.connections.active, 1);
    drop((client, server));
    site.daemon.wait_for_idle()?;
    assert_eq!(site.daemon.flows()?.len(), 0);
    site.daemon.stop()
}
