//! The packet datapath: flows that leave their sockets.

mod ageing;
mod alternate;
mod auto;
mod back;
mod basics;
mod beside;
mod blind;
mod churn;
mod classifiers;
mod conntrack;
mod detached;
mod docker;
mod draining;
mod filters;
mod firewall;
mod generic;
mod hostile;
mod interfaces;
mod ipvs;
mod kill;
mod kills;
mod late;
mod left;
mod links;
mod matrix;
mod namespaces;
mod narrow;
mod outlive;
mod refusals;
mod routes;
mod silent;
mod sizes;
mod sources;
mod unsent;
mod unusual;

use std::fs;

use anyhow::{Context as _, Result};
use harness::daemon::{Daemon, Datapath, Packet};
use harness::netns::Namespace;
use harness::site::{RawSite, config};

/// A site whose flows leave their sockets at once.
fn site() -> Result<RawSite> {
    RawSite::start(&config().datapath(Datapath::Packet))
}

/// Sets a switch of TCP over IPv4 and IPv6 in a namespace.
fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    namespace.enter(|| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("writing {path}"))
    })
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
