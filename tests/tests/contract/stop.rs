//! Law 7: the daemon's own end: drained, hurried, and killed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use harness::MIB;
use harness::carrier::Carrier;
use harness::daemon::{Daemon, Datapath, bpf_objects_of};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::{BpfKind, bpf_ids, edge};
use harness::peers::raw::{Ending, expect_ending, fill, finish, is_reset, read_to_ending, transfer};
use harness::site::{RawSite, SHARED_PORT};

use crate::{site, site_with};

/// Flows of the daemon that is killed: as many in each direction, and a quarter of them with a sender that has ended.
const KILLED: usize = 200;

/// More than fits into the buffers on the way, so that a flow is cut in mid-transfer.
const FLOOD: u64 = 64 * MIB;

/// Fits into the buffers on the way, so that its sender can end.
const WHOLE: u64 = 2 * MIB;

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
fn law_7_a_drain_lets_the_running_transfer_complete_and_leaves_nothing() -> Result<()> {
    let mut site = site()?;
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
fn law_7_an_idle_daemon_ends_at_once() -> Result<()> {
    site()?.daemon.stop()
}

#[test]
fn law_7_the_drain_timeout_ends_a_quiet_flow_in_order() -> Result<()> {
    let mut site = site_with(|config| config.timeout("drain", "1s"))?;
    let carrier = Carrier::of_environment()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, 1000)?;
    if carrier.datapath == Datapath::Packet {
        carrier.wait_until_carried(&site.daemon)?;
    }
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
fn law_7_the_drain_timeout_resets_a_flow_in_mid_transfer() -> Result<()> {
    let mut site = site_with(|config| config.timeout("drain", "1s"))?;
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
fn law_7_a_second_sigterm_ends_the_daemon_at_once() -> Result<()> {
    let mut site = site_with(|config| config.timeout("drain", "60s"))?;
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

/// One flow of a daemon that will be killed: its reader has read nothing.
struct Doomed {
    sender: TcpStream,
    reader: TcpStream,
    sent: u64,
    finished: bool,
}

impl Doomed {
    fn begin(number: usize, (client, server): (TcpStream, TcpStream)) -> Result<Self> {
        let (mut sender, reader) = if number.is_multiple_of(2) { (client, server) } else { (server, client) };
        let finished = number % 4 < 2;
        let sent = fill(&mut sender, if finished { WHOLE } else { FLOOD })?;
        if finished {
            finish(&sender)?;
        }
        Ok(Self { sender, reader, sent, finished })
    }

    /// The same of a flow that may have left its sockets, and goes on then. Says whether it did.
    fn check_survivor(&mut self) -> Result<bool> {
        // Fails where it was reset.
        drop(finish(&self.sender));
        let (read, ending) = read_to_ending(&mut self.reader)?;
        ensure!(ending == Ending::Reset || read == self.sent, "an end after {read} of {} bytes", self.sent);
        drop(finish(&self.reader));
        let (_, told) = read_to_ending(&mut self.sender)?;
        ensure!(told == ending, "the reader sees {ending:?}, the sender {told:?}");
        Ok(ending == Ending::Eof)
    }

    /// Neither side may take a stream that was cut for a whole one.
    fn check(&mut self) -> Result<()> {
        let (read, ending) = read_to_ending(&mut self.reader)?;
        let is_whole = self.finished && read == self.sent;
        ensure!(ending == Ending::Reset || is_whole, "an end after {read} of {} bytes", self.sent);
        let (_, ending) = read_to_ending(&mut self.sender)?;
        ensure!(ending == Ending::Reset, "the sender of a stream that was cut sees an end");
        Ok(())
    }
}

#[test]
fn law_7_a_killed_daemon_leaves_no_peer_that_sees_the_end_of_a_cut_stream() -> Result<()> {
    let mut site = site()?;
    let flows = (0..KILLED).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    let objects = BpfObjects::of(&site.daemon)?;
    let begin = |(number, flow)| thread::spawn(move || Doomed::begin(number, flow));
    let begun: Vec<_> = flows.into_iter().enumerate().map(begin).collect();
    let join = |doomed: JoinHandle<_>| doomed.join().map_err(|_| anyhow!("a sender panicked"))?;
    let mut doomed = begun.into_iter().map(join).collect::<Result<Vec<_>>>()?;
    site.daemon.signal(libc::SIGKILL)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), None);
    if Carrier::of_environment()?.datapath == Datapath::Packet {
        let checked: Vec<_> = doomed.iter_mut().map(Doomed::check_survivor).collect();
        let survivors = checked.iter().filter(|checked| checked.as_ref().is_ok_and(|lives| *lives)).count();
        let wrong: Vec<_> = checked.into_iter().filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "{} of {KILLED} flows, such as {:?}", wrong.len(), wrong.first());
        assert!(survivors > KILLED / 2, "only {survivors} of {KILLED} flows outlived their daemon");
        site.daemon.clean_pins()?;
        return objects.wait_until_gone();
    }
    let wrong: Vec<_> = doomed.iter_mut().filter_map(|flow| flow.check().err()).collect();
    assert!(wrong.is_empty(), "{} of {KILLED} flows, such as {:?}", wrong.len(), wrong.first());
    objects.wait_until_gone()
}
