//! The second act: flows that have left their sockets, and a daemon that is killed.

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::peers::agent::Agent;
use harness::pins::Pins;
use harness::site::{self, POLLING_NAME, SHARED_PORT, Site};
use serde::Serialize;

use crate::text::Printer;

const AGENTS: usize = 5;
/// How many times each agent asks for work while there is no daemon.
const POLLS: usize = 5;

/// What became of the agents.
#[derive(Debug, Serialize)]
pub(crate) struct Outlived {
    /// Why flows cannot leave their sockets on this host.
    pub(crate) unavailable: Option<String>,
    /// Agents whose flows had left their sockets when the daemon was killed.
    pub(crate) agents: usize,
    /// Their polls that were answered while there was no daemon.
    pub(crate) polls_without_daemon: usize,
    /// Flows of them that the next daemon has found, and heard end in order.
    pub(crate) ended_in_order: usize,
    /// Packets that the programs have translated.
    pub(crate) forwarded_packets: u64,
}

impl Outlived {
    /// True when no agent has noticed anything, or the host cannot do it.
    pub(crate) fn is_good(&self) -> bool {
        self.unavailable.is_some()
            || (self.agents == AGENTS
                && self.polls_without_daemon == AGENTS * POLLS
                && self.ended_in_order == AGENTS
                && self.forwarded_packets > 0)
    }

    fn without(reason: Option<String>) -> Self {
        let unavailable = Some(reason.unwrap_or_else(|| "no reason given".to_owned()));
        Self { unavailable, agents: 0, polls_without_daemon: 0, ended_in_order: 0, forwarded_packets: 0 }
    }
}

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
    printer.step(&format!("{AGENTS} more agents, whose flows leave their sockets (datapath = \"packet\")"));
    let subscription = |number| format!("poll://lasting{number}/");
    let agent = |number| site.agent(Some(POLLING_NAME), SHARED_PORT, &subscription(number));
    let mut agents = (0..AGENTS).map(agent).collect::<Result<Vec<_>>>()?;
    poll(&mut agents)?;
    wait_for_packets(&site.daemon)?;
    printer.step("snisplice is killed (kill -9); the agents go on polling");
    site.daemon.signal(libc::SIGKILL)?;
    ensure!(site.daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    let mut polls_without_daemon = 0;
    for _ in 0..POLLS {
        polls_without_daemon += poll(&mut agents)?;
    }
    printer.step("snisplice is started again, and finds its flows");
    site.daemon = launch.start(&site.net.edge, &config)?;
    wait_for_packets(&site.daemon)?;
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

fn wait_for_packets(daemon: &Daemon) -> Result<()> {
    wait_for("the flows to leave their sockets", PATIENCE, || {
        let flows = daemon.flows().ok()?;
        let left = flows.iter().filter(|flow| flow.datapath.as_deref() == Some("packet")).count();
        (left == AGENTS).then_some(())
    })
}
