//! Thousands of flows that the kernel carries, and what they cost the daemon while their bytes trickle.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::daemon::{Config, Daemon, Datapath};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::keyed;
use harness::netns::{SyscallCount, backend, send_signal};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish};
use harness::site::{POLLING_PORT, RawSite, config};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as the fleet of a large site, or as descriptors allow: the test has both ends of each.
const MOST: usize = 9000;
const OWN_DESCRIPTORS: usize = 500;

/// How often each flow carries a byte while the system calls are counted.
const SECONDS: u64 = 5;

/// System calls of the daemon for a flow and a second. Each flow looks after itself once in 15 s, in four of them.
const MOST_CALLS: f64 = 0.5;

/// Thousands of descriptors at a time are enough for one process.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

type Flow = (TcpStream, TcpStream);

fn site() -> Result<RawSite> {
    site_with(config())
}

fn site_with(config: Config) -> Result<RawSite> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    RawSite::start(&config.datapath(Datapath::Sockmap))
}

fn as_many_as_possible() -> usize {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    limit.map_or(MOST, |limit| MOST.min(limit.saturating_sub(OWN_DESCRIPTORS) / 2))
}

fn flows(site: &RawSite, count: usize) -> Result<Vec<Flow>> {
    (0..count).map(|_| site.flow()).collect()
}

fn redirected(daemon: &Daemon) -> Result<u64> {
    Ok(daemon.status()?.kernel.context("the status has no kernel counters")?.redirected_bytes)
}

/// One byte on each flow, spread over a second.
fn trickle(flows: &mut [Flow]) -> Result<()> {
    const SLICES: usize = 20;
    let begun = Instant::now();
    for (number, slice) in flows.chunks_mut(flows.len().div_ceil(SLICES)).enumerate() {
        for (client, _) in slice {
            client.write_all(&[7])?;
        }
        let next = Duration::from_millis(50) * u32::try_from(number + 1)?;
        dawdle(next.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

#[test]
fn bytes_that_the_kernel_carries_cost_no_system_call_for_each_flow() -> Result<()> {
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let site = site()?;
    let count = as_many_as_possible();
    let mut flows = flows(&site, count)?;
    let calls = SyscallCount::of(site.daemon.pid())?;
    let (bytes, begun) = (redirected(&site.daemon)?, calls.read()?);
    ensure!(begun > 0, "no system call of the daemon is seen, though it has just answered");
    for _ in 0..SECONDS {
        trickle(&mut flows)?;
    }
    let counted = calls.read()? - begun;
    let (expected, moved) = (count as u64 * SECONDS, redirected(&site.daemon)? - bytes);
    assert!(moved >= expected, "the kernel moved {moved} of {expected} bytes");
    let each = counted as f64 / expected as f64;
    assert!(each <= MOST_CALLS, "{counted} system calls of {count} flows in {SECONDS} s: {each:.2} for each");
    let idle = site.daemon.flows()?.into_iter().filter(|flow| flow.idle_seconds > 2.5).count();
    assert_eq!(idle, 0, "flows that are said to be idle");
    println!("{count} flows, a byte each second: {each:.2} system calls for each flow and second");
    drop(flows);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// What a burst of flows has held is not much, and is the host's again.
#[test]
fn memory_of_flows_that_have_ended_is_given_back() -> Result<()> {
    const FLOWS: usize = 4_000;
    /// KiB: 4.4 for each. An idle flow takes 3.8.
    const MOST: u64 = 17_600;
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let site = site()?;
    let before = held(&site.daemon)?;
    let flows = flows(&site, FLOWS)?;
    let all = held(&site.daemon)?.saturating_sub(before);
    ensure!(all > 4096, "{FLOWS} flows hold {all} KiB only");
    ensure!(
        all < MOST,
        "{FLOWS} idle flows hold {all} KiB: has what is kept for each grown past a size of the allocator's?"
    );
    drop(flows);
    site.daemon.wait_for_idle()?;
    let rest = || held(&site.daemon).ok().map(|held| held.saturating_sub(before));
    let rest =
        wait_for("the memory to be given back", PATIENCE, || rest().filter(|rest| *rest < all * 3 / 4))
            .with_context(|| format!("of {all} KiB {:?} are held", rest()))?;
    println!("{FLOWS} flows held {all} KiB, and {rest} KiB are left of that");
    site.daemon.stop()
}

/// KiB that the daemon has written to and not given back.
fn held(daemon: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The ring of events has room for 4,096. With the daemon stopped, more directions than that run out of credit; what could
/// not be told is found by looking.
#[test]
fn events_that_find_no_room_are_made_good() -> Result<()> {
    const FLOWS: usize = 4_500;
    /// More than the credit of a new direction, so that each has something to tell.
    const BYTES: u64 = 192 * 1024;
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    // Little credit, and servers that take little before they read.
    let mut site = site_with(config().tcp_memory("1MiB"))?;
    site.net.backend.enter(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 8192 8192")?))?;
    site.polling.stop()?;
    site.polling = RawListener::bind(&site.net.backend, backend(POLLING_PORT))?;
    let count = FLOWS.min(as_many_as_possible());
    ensure!(count == FLOWS, "needs {} descriptors; raise the hard limit (ulimit -Hn)", 2 * FLOWS);
    let flows = flows(&site, count)?;
    let pid = site.daemon.pid();
    send_signal(pid, libc::SIGSTOP)?;
    let sent = flows.iter().map(|(client, _)| offer(client, BYTES)).collect::<Result<Vec<_>>>();
    send_signal(pid, libc::SIGCONT)?;
    let sent = sent?;
    let lost = || site.daemon.status().ok()?.kernel.map(|kernel| kernel.lost_events).filter(|lost| *lost > 0);
    let lost = wait_for("events to be lost", PATIENCE, lost)?;
    thread::scope(|scope| {
        let readers: Vec<_> = flows
            .chunks(count.div_ceil(8))
            .zip(sent.chunks(count.div_ceil(8)))
            .map(|(flows, sent)| scope.spawn(move || flows.iter().zip(sent).try_for_each(end_after)))
            .collect();
        readers.into_iter().try_for_each(|reader| reader.join().map_err(|_| anyhow!("a reader panicked"))?)
    })?;
    println!("{count} flows, {lost} events lost");
    drop(flows);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// Writes as much of keyed data as is taken at once. Returns how much.
fn offer(stream: &TcpStream, bytes: u64) -> Result<u64> {
    let mut data = vec![0; usize::try_from(bytes)?];
    keyed::Keyed::new(1).fill(&mut data);
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
        match (&*stream).write(rest) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_nonblocking(false)?;
    Ok(sent as u64)
}

fn end_after(((client, server), sent): (&Flow, &u64)) -> Result<()> {
    let mut server = server.try_clone()?;
    keyed::receive(&mut server, 1, *sent)?;
    finish(client)?;
    expect_ending(&mut server, Ending::Eof)
}

/// An agent behind a slow link does not find minutes of old bytes before it.
#[test]
fn little_waits_in_the_proxy_for_a_slow_agent() -> Result<()> {
    /// 256 kbit/s, in bytes.
    const RATE: u64 = 32_000;
    const MOST_WAIT: u64 = 10;
    let site = site()?;
    let shape = [
        "qdisc", "add", "dev", "client", "root", "tbf", "rate", "256kbit", "burst", "3kb", "latency", "200ms",
    ];
    let shaped = site.net.edge.command("tc").args(shape).output()?;
    ensure!(shaped.status.success(), "tc: {}", String::from_utf8_lossy(&shaped.stderr));
    let (mut client, server) = site.flow()?;
    client.set_read_timeout(Some(PATIENCE))?;
    let writer = server.try_clone()?;
    let sender = thread::spawn(move || offer_for(&writer, Duration::from_secs(8)));
    // The agent reads all the time, as fast as its link brings it.
    let begun = Instant::now();
    let mut received = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        received += read_some(&mut client)?;
    }
    let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    let unsent = harness::netns::unsent(&server)?;
    let parked = sent.saturating_sub(unsent).saturating_sub(received);
    assert!(parked <= RATE * MOST_WAIT, "{parked} of {sent} bytes wait, {received} have arrived");
    assert!(received > RATE * 4, "only {received} bytes in 8 s");
    println!(
        "256 kbit/s: {parked} bytes wait between the server and its agent, {:.1} s",
        parked as f64 / RATE as f64
    );
    drop((client, server));
    site.daemon.stop()
}

fn read_some(stream: &mut TcpStream) -> Result<u64> {
    use std::io::Read as _;
    let mut buffer = [0; 16 * 1024];
    Ok(stream.read(&mut buffer)? as u64)
}

/// Writes whenever there is room, for so long. Returns how much.
fn offer_for(stream: &TcpStream, time: Duration) -> Result<u64> {
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < time {
        match (&*stream).write(&[7; 16 * 1024]) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
