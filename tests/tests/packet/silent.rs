//! Connections that carry no byte: as agents that wait for their first order, thousands of them.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::edge;
use harness::site::POLLING_PORT;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::site;

const FLOWS: usize = 1000;

/// In this time they may cost no more than it took to accept them, on whatever machine.
const WINDOW: Duration = Duration::from_secs(3);

#[test]
fn silent_flows_cost_nothing_and_leave_their_sockets_with_the_first_byte() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let site = site()?;
    let connect = |_| Ok(TcpStream::connect_timeout(&edge(POLLING_PORT), PATIENCE)?);
    let begun = site.daemon.processor_time()?;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    while clients.len() < FLOWS {
        // No more at a time than the queue of the server takes.
        clients.extend(site.net.client.enter(|| (0..100).map(connect).collect::<Result<Vec<_>>>())?);
        servers.extend((0..100).map(|_| site.polling.accept()).collect::<Result<Vec<_>>>()?);
    }

    let before = site.daemon.processor_time()?;
    dawdle(WINDOW);
    let (accepted, used) = (before - begun, site.daemon.processor_time()? - before);
    let told = format!(
        "{FLOWS} silent flows took {used:?} of processor time in {WINDOW:?}, and {accepted:?} to accept"
    );
    println!("{told}");
    ensure!(used < accepted, "{told}");
    let listed = site.daemon.flows()?;
    let silent = |text: &String| text.contains("no byte has been forwarded yet");
    let told = listed.iter().filter(|flow| flow.obstacle.as_ref().is_some_and(silent)).count();
    ensure!(told == FLOWS, "{told} of {FLOWS} are said to be silent");

    for client in &mut clients {
        client.write_all(b"x")?;
    }
    wait_for("all flows to leave their sockets", 3 * PATIENCE, || {
        let left =
            site.daemon.metrics().ok()?.count("snisplice_packet_moves_total", &[("what", "offloaded")]);
        (left == FLOWS as u64).then_some(())
    })?;
    drop((clients, servers));
    site.daemon.stop()
}
