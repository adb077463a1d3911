//! The packet datapath: flows that leave their sockets.

mod alternate;
mod back;
mod basics;
mod churn;
mod kill;
mod outlive;

use anyhow::{Context as _, Result};
use harness::daemon::{Daemon, Datapath, Packet};
use harness::site::{RawSite, config};

/// A site whose flows leave their sockets at once.
fn site() -> Result<RawSite> {
    RawSite::start(&config().datapath(Datapath::Packet))
}

/// What the programs have counted.
fn counted(daemon: &Daemon) -> Result<Packet> {
    daemon.status()?.packet.context("the status has no counters of packets")
}

/// Waits until as many flows have left their sockets.
fn wait_for_packets(daemon: &Daemon, flows: usize) -> Result<()> {
    harness::deadline::wait_for(
        &format!("{flows} flows to leave their sockets"),
        harness::deadline::PATIENCE,
        || {
            let listed = daemon.flows().ok()?;
            let gone = listed.iter().filter(|flow| flow.datapath.as_deref() == Some("packet")).count();
            (gone == flows).then_some(())
        },
    )
    .with_context(|| format!("{:#?}", daemon.flows()))
}
