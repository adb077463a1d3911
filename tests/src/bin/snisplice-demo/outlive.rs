//! The second act: flows that have left their sockets, and a daemon that is killed.

use crate::report::{AGENTS, Outlived, POLLS};
use crate::text::Printer;
use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Datapath, Launch};
use harness::deadline::PATIENCE;
use harness::peers::agent::Agent;
use harness::pins::Pins;
use harness::site::{self, POLLING_NAME, SHARED_PORT, Site};

/// Plays it in a network of its own.
pub(crate) fn play(launch: &Launch, printer: &Printer) -> Result<Outlived> {
    let pins = Pins::create()?;
    let config = site::config().datapath(Datapath::Packet).packet(&pins, "0s");
    let mut site = Site::launch(&config, launch)?;
    let packet = site.daemon.status()?.datapaths.packet;
    if !packet.available {
        site.stop()?;
        return Ok(Outlived::without(packet.reason));
    }
    printer.step(&format!("{AGENTS} more agents, whose connections are offloaded (datapath = \"packet\")"));
    let subscription = |number| format!("poll://lasting{number}/");
    let agent = |number| site.agent(Some(POLLING_NAME), SHARED_PORT, &subscription(number));
    let mut agents = (0..AGENTS).map(agent).collect::<Result<Vec<_>>>()?;
    poll(&mut agents)?;
    site.daemon.wait_for_packets(AGENTS)?;
    printer.step("snisplice is killed (kill -9); the agents go on polling");
    site.daemon.signal(libc::SIGKILL)?;
    ensure!(site.daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    let mut polls_without_daemon = 0;
    for _ in 0..POLLS {
        polls_without_daemon += poll(&mut agents)?;
    }
    printer.step("snisplice is started again, and finds its connections");
    site.daemon = launch.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(AGENTS)?;
    poll(&mut agents)?;
    let mut ended_in_order = 0;
    for agent in agents {
        let wire = agent.leave()?;
        let client = wire.stream.local_addr()?;
        drop(wire);
        ended_in_order += usize::from(site.daemon.wait_for_access(client)?.reason == "eof");
    }
    let counted = site.daemon.status()?.packet.context("no counters of packets")?;
    site.stop()?;
    Ok(Outlived {
        unavailable: None,
        agents: AGENTS,
        polls_without_daemon,
        ended_in_order,
        forwarded_packets: counted.forwarded,
    })
}

/// Each agent asks for work once. Says how many were answered.
fn poll(agents: &mut [Agent]) -> Result<usize> {
    for agent in &mut *agents {
        agent.poll()?;
    }
    Ok(agents.len())
}
