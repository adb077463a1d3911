//! Connections that carry no byte: as agents that wait for their first order, thousands of them.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::edge;
use harness::site::POLLING_PORT;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::site;

const FLOWS: usize = 1000;

/// What they may cost in this time. They cost some ten milliseconds; with tries in vain it was above 300.
const WINDOW: Duration = Duration::from_secs(3);
const MOST: Duration = Duration::from_millis(150);

/// Processor time of a process so far.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which may hold anything, stands in brackets; the 14th and the 15th field are what is wanted.
    let fields: Vec<_> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks: u64 = fields
        .get(11..13)
        .context("too few fields")?
        .iter()
        .map(|field| field.parse::<u64>())
        .sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

#[test]
fn silent_flows_cost_nothing_and_leave_their_sockets_with_the_first_byte() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let site = site()?;
    let connect = |_| Ok(TcpStream::connect_timeout(&edge(POLLING_PORT), PATIENCE)?);
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    while clients.len() < FLOWS {
        // No more at a time than the queue of the server takes.
        clients.extend(site.net.client.enter(|| (0..100).map(connect).collect::<Result<Vec<_>>>())?);
        servers.extend((0..100).map(|_| site.polling.accept()).collect::<Result<Vec<_>>>()?);
    }

    let before = processor_time(site.daemon.pid())?;
    dawdle(WINDOW);
    let used = processor_time(site.daemon.pid())? - before;
    println!("{FLOWS} silent flows: {used:?} of processor time in {WINDOW:?}");
    ensure!(used < MOST, "{FLOWS} silent flows took {used:?} of processor time in {WINDOW:?}");
    let listed = site.daemon.flows()?;
    let silent = |text: &String| text.contains("no byte has been carried yet");
    let told = listed.iter().filter(|flow| flow.obstacle.as_ref().is_some_and(silent)).count();
    ensure!(told == FLOWS, "{told} of {FLOWS} are said to be silent");

    for client in &mut clients {
        client.write_all(b"x")?;
    }
    wait_for("all flows to leave their sockets", 3 * PATIENCE, || {
        let left = site.daemon.metrics().ok()?.count("snisplice_packet_moves_total", &[("what", "left")]);
        (left == FLOWS as u64).then_some(())
    })?;
    drop((clients, servers));
    site.daemon.stop()
}
