//! Law 4: readers that stop. What is held for their flow has a bound, and other flows do not notice.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use harness::MIB;
use harness::deadline::{PATIENCE, wait_for};
use harness::keyed;
use harness::netns::unsent;
use harness::peers::raw::{Ending, expect_ending, fill, finish, read_to_ending, reset, transfer};
use harness::site::RawSite;

use crate::{memory_alone, site};

/// The most that the kernel may tune a receive window of the daemon to, set by the tests: hosts differ in it.
const WINDOW: u64 = 6 * MIB;

/// What the daemon and the kernel may hold of one direction between its two peers: the largest credit, a receive
/// window, and what is on its way from one to the other (docs/kernel.md). For copying it is the two sockets' own buffers.
const PARKED: u64 = 16 * MIB + WINDOW + 2 * MIB;

/// What is offered to a reader that does not read: far more than may be held.
const OFFER: u64 = 64 * MIB;

/// Flows that are stalled at the same time.
const STALLED: usize = 50;

/// What the kernel may take to hold a byte: a buffer is rarely full.
const OVERHEAD: u64 = 2;

/// What else happens on a machine in the meantime.
const SLACK: u64 = 512 * MIB;

/// A site at whose edge windows are bounded.
fn bounded_site() -> Result<RawSite> {
    let site = site()?;
    site.net.edge.enter(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_rmem", format!("4096 131072 {WINDOW}"))?))?;
    Ok(site)
}

/// What lies between the two peers of a flow on which `sent` bytes were written and none was read.
fn parked(sent: u64, sender: &TcpStream, stopped: &TcpStream) -> Result<u64> {
    let unread = rustix::io::ioctl_fionread(stopped)?;
    Ok(sent.saturating_sub(unsent(sender)?).saturating_sub(unread))
}

fn ends(upload: bool, (client, server): (TcpStream, TcpStream)) -> (TcpStream, TcpStream) {
    if upload { (client, server) } else { (server, client) }
}

/// One end of a flow does not read while the other sends; then it goes on.
fn a_stopped_reader_holds_up_its_sender_only(upload: bool) -> Result<()> {
    let site = bounded_site()?;
    let (mut sender, mut stopped) = ends(upload, site.flow()?);
    let sent = fill(&mut sender, OFFER)?;
    assert!(sent < OFFER, "{sent} bytes could be sent to a reader that does not read");
    let held = parked(sent, &sender, &stopped)?;
    assert!(held <= PARKED, "{held} of {sent} bytes are held");

    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 3, 8 * MIB)?;
    transfer(&mut server, &mut client, 4, 8 * MIB)?;
    drop((client, server));

    // All that waited arrives, and the sender goes on from where it was.
    let began = Instant::now();
    keyed::receive(&mut stopped, 1, sent)?;
    assert!(began.elapsed() < Duration::from_secs(5), "{sent} bytes took {:?}", began.elapsed());
    transfer(&mut sender, &mut stopped, 2, 8 * MIB)?;
    finish(&sender)?;
    expect_ending(&mut stopped, Ending::Eof)?;
    drop((sender, stopped));
    site.daemon.stop()
}

#[test]
fn law_4_an_upload_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(true)
}

#[test]
fn law_4_a_download_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(false)
}

/// What waits for one reader must not make room for what waits for the other: both directions of a flow share the queues
/// of its two sockets.
#[test]
fn law_4_both_directions_of_a_flow_can_wait_at_the_same_time() -> Result<()> {
    let site = bounded_site()?;
    let (mut client, mut server) = site.flow()?;
    let (mut second_client, mut second_server) = (client.try_clone()?, server.try_clone()?);
    let sent = thread::scope(|scope| {
        let fillers = [scope.spawn(|| fill(&mut client, OFFER)), scope.spawn(|| fill(&mut server, OFFER))];
        fillers.map(|filler| filler.join().map_err(|_| anyhow!("a sender panicked"))?)
    });
    let [up, down] = sent;
    let (up, down) = (up?, down?);
    assert!(up < OFFER && down < OFFER, "{up} and {down} bytes could be sent to readers that do not read");
    let held = [parked(up, &client, &server)?, parked(down, &server, &client)?];
    assert!(held.iter().all(|held| *held <= PARKED), "{held:?} of {up} and {down} bytes are held");
    thread::scope(|scope| {
        let upload = scope.spawn(|| keyed::receive(&mut second_server, 1, up));
        keyed::receive(&mut second_client, 1, down)?;
        upload.join().map_err(|_| anyhow!("a reader panicked"))?
    })?;
    drop((client, server, second_client, second_server));
    site.daemon.stop()
}

/// A sender that resets while its bytes wait for a reader ends the flow: the reader is told by a reset, too.
fn a_reset_of_a_held_up_sender_ends_the_flow(upload: bool) -> Result<()> {
    let site = bounded_site()?;
    let (client, server) = site.flow()?;
    let address = client.local_addr()?;
    let (mut sender, mut stopped) = ends(upload, (client, server));
    fill(&mut sender, OFFER)?;
    reset(sender)?;
    // It still reads nothing, so that only the daemon can end this.
    let access = site.daemon.wait_for_access(address)?;
    let side = if upload { "client" } else { "upstream" };
    assert_eq!((access.reason, access.side.as_deref()), (format!("{side}_reset"), Some(side)));
    assert_eq!(read_to_ending(&mut stopped)?.1, Ending::Reset);
    site.daemon.stop()
}

#[test]
fn law_3_a_reset_of_a_held_up_upload_ends_the_flow() -> Result<()> {
    a_reset_of_a_held_up_sender_ends_the_flow(true)
}

#[test]
fn law_3_a_reset_of_a_held_up_download_ends_the_flow() -> Result<()> {
    a_reset_of_a_held_up_sender_ends_the_flow(false)
}

/// `MemAvailable`, in bytes.
fn available() -> Result<u64> {
    let table = fs::read_to_string("/proc/meminfo")?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no MemAvailable")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// How long a transfer takes in each direction.
fn pace(site: &RawSite) -> Result<Duration> {
    let (mut client, mut server) = site.flow()?;
    let began = Instant::now();
    transfer(&mut client, &mut server, 3, 32 * MIB)?;
    transfer(&mut server, &mut client, 4, 32 * MIB)?;
    Ok(began.elapsed())
}

/// The queue of a redirect is in no counter of a socket, so that only the machine's memory shows it.
#[test]
fn law_4_many_stopped_readers_take_bounded_memory_and_slow_nobody_down() -> Result<()> {
    let _memory = memory_alone();
    let site = bounded_site()?;
    let alone = pace(&site)?;
    let flows =
        (0..STALLED).map(|number| Ok(ends(number % 2 == 0, site.flow()?))).collect::<Result<Vec<_>>>()?;
    let before = available()?;
    let fillers: Vec<_> = flows
        .into_iter()
        .map(|(mut sender, stopped)| {
            thread::spawn(move || -> Result<_> { Ok((fill(&mut sender, OFFER)?, sender, stopped)) })
        })
        .collect();
    let join = |filler: thread::JoinHandle<_>| filler.join().map_err(|_| anyhow!("a sender panicked"))?;
    let flows = fillers.into_iter().map(join).collect::<Result<Vec<_>>>()?;
    let mut total = 0;
    for (sent, sender, stopped) in &flows {
        let held = parked(*sent, sender, stopped)?;
        assert!(held <= PARKED, "{held} of {sent} bytes are held");
        total += sent;
    }
    // Whoever else uses the machine for a moment is not what this is about. What a stalled flow holds does not go away.
    let most = OVERHEAD * total + SLACK;
    let what = format!("at most {most} bytes of memory to be gone while {total} are on their way");
    let taken = wait_for(&what, PATIENCE, || {
        let taken = before.saturating_sub(available().ok()?);
        (taken <= most).then_some(taken)
    })?;

    let bound = 4 * alone + Duration::from_secs(1);
    let mut beside = pace(&site)?;
    for _ in 0..2 {
        if beside >= bound {
            beside = beside.min(pace(&site)?);
        }
    }
    assert!(beside < bound, "alone {alone:?}, beside the others {beside:?}");

    for (sent, sender, mut stopped) in flows {
        finish(&sender)?;
        keyed::receive(&mut stopped, 1, sent)?;
        expect_ending(&mut stopped, Ending::Eof)?;
    }
    println!(
        "{STALLED} stalled flows: {total} bytes sent, {taken} bytes of memory; {alone:?} alone, {beside:?} beside"
    );
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
