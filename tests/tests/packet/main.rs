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
use harness::daemon::{Config, Daemon, Datapath, Packet};
use harness::netns::Namespace;
use harness::pins::Pins;
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

/// The usual configuration, with the programs attached by tcx or by filters.
fn attached_by(pins: &Pins, attach: &str) -> Config {
    config().datapath(Datapath::Packet).packet(pins, "0s").packet_line(&format!("attach = \"{attach}\""))
}
