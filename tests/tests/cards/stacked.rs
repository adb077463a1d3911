//! Interfaces on top of cards, and tags of frames.

use anyhow::Result;
use harness::impair::Impaired;
use harness::netns::{Namespace, Topology};

use crate::combination::{plain, play};
use crate::offloads::switch;

/// Moves the addresses of an interface to a new one that `line` makes on it, called `top`.
fn stack(namespace: &Namespace, interface: &str, address: &str, line: &str) -> Result<()> {
    let name = format!("top-{interface}");
    let line = line.replace('$', interface).replace("top", &name);
    namespace.ip_batch(&format!(
        "{line}address flush dev {interface}\nlink set {name} up\naddress add {address} dev {name}\n"
    ))
}

fn on_the_edge(net: &Topology, line: &str) -> Result<()> {
    stack(&net.edge, "client", "10.1.0.1/24", line)?;
    stack(&net.edge, "backend", "10.2.0.1/24", line)
}

fn everywhere(net: &Topology, line: &str) -> Result<()> {
    on_the_edge(net, line)?;
    for (namespace, network) in [(&net.client, 1), (&net.backend, 2)] {
        stack(namespace, "edge", &format!("10.{network}.0.2/24"), line)?;
        namespace.ip_batch(&format!("route replace default via 10.{network}.0.1\n"))?;
    }
    Ok(())
}

const VLAN: &str = "link add link $ name top type vlan id 7\n";
const VLAN_OFFLOADS: [&str; 2] = ["rx-vlan-hw-parse", "tx-vlan-hw-insert"];

#[test]
fn vlan_interfaces() -> Result<()> {
    for card in ["virtio", "e1000e"] {
        play(card, "VLAN interfaces", |net| {
            everywhere(&net, VLAN)?;
            plain(net, |_| Ok(()))
        })?;
    }
    Ok(())
}

#[test]
fn vlan_interfaces_without_offloads() -> Result<()> {
    play("e1000e", "VLAN interfaces, VLAN offload off", |net| {
        switch(&net, &VLAN_OFFLOADS, false)?;
        everywhere(&net, VLAN)?;
        plain(net, |_| Ok(()))
    })
}

/// Frames of both ends begin to bear a priority.
fn with_priorities(card: &str, what: &str, is_on: bool) -> Result<()> {
    play(card, what, |net| {
        if !is_on {
            switch(&net, &VLAN_OFFLOADS, false)?;
        }
        let mut tagged = Vec::new();
        plain(net, |scene| {
            tagged.push(Impaired::tagged(&scene.net.client, "edge")?);
            tagged.push(Impaired::tagged(&scene.net.backend, "edge")?);
            Ok(())
        })
    })
}

#[test]
fn priorities_without_a_vlan() -> Result<()> {
    with_priorities("virtio", "802.1p in mid-flow", true)
}

#[test]
fn priorities_that_the_card_takes_off() -> Result<()> {
    with_priorities("e1000e", "802.1p in mid-flow", true)
}

#[test]
fn priorities_that_the_card_leaves() -> Result<()> {
    with_priorities("e1000e", "802.1p in mid-flow, VLAN offload off", false)
}

#[test]
fn bridges() -> Result<()> {
    play("virtio", "bridges on the cards", |net| {
        on_the_edge(&net, "link add top type bridge\nlink set $ master top\n")?;
        plain(net, |_| Ok(()))
    })
}

#[test]
fn macvlan_interfaces() -> Result<()> {
    play("virtio", "macvlan on the cards", |net| {
        on_the_edge(&net, "link add link $ name top type macvlan mode bridge\n")?;
        plain(net, |_| Ok(()))
    })
}
