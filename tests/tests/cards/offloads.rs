//! What cards do for the kernel: segmentation, checksums, joining packets, queues.

use anyhow::{Result, ensure};
use harness::netns::{Namespace, Topology};

use crate::combination::{Plan, Scene, carried, plain, play, refused};

/// Interfaces of the network, with the end that they are at.
fn interfaces(net: &Topology) -> [(&Namespace, &'static str); 4] {
    [(&net.client, "edge"), (&net.edge, "client"), (&net.edge, "backend"), (&net.backend, "edge")]
}

/// Switches features of all interfaces. Those that a card has not are passed over.
pub(crate) fn switch(net: &Topology, features: &[&str], on: bool) -> Result<()> {
    for (namespace, interface) in interfaces(net) {
        for feature in features {
            let is_on = namespace.set_feature(interface, feature, on);
            ensure!(on || !is_on.unwrap_or(false), "{feature} of {interface} stays on");
        }
    }
    Ok(())
}

const SEGMENTATION: [&str; 3] = ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"];
const JOINING: [&str; 3] = ["rx-gro", "rx-gro-hw", "rx-lro"];
const CHECKSUMS: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-ipv4"];

fn defaults(card: &str) -> Result<()> {
    play(card, "defaults", |net| plain(net, |_| Ok(())))
}

fn without(card: &str, what: &str, features: &[&str]) -> Result<()> {
    play(card, what, |net| {
        switch(&net, features, false)?;
        plain(net, |_| Ok(()))
    })
}

#[test]
fn virtio_with_one_queue() -> Result<()> {
    defaults("virtio")
}

#[test]
fn virtio_with_more_queues() -> Result<()> {
    defaults("virtio-4q")
}

#[test]
fn virtio_by_ipv6() -> Result<()> {
    play("virtio", "IPv6", |net| {
        carried(Scene::start(net, Plan { is_ipv6: true, ..Plan::default() })?, |_| Ok(()))
    })
}

#[test]
fn virtio_without_segmentation() -> Result<()> {
    without("virtio-4q", "TSO and GSO off", &SEGMENTATION)
}

#[test]
fn virtio_without_joining() -> Result<()> {
    without("virtio-4q", "GRO and GRO in hardware off", &JOINING)
}

#[test]
fn virtio_without_checksums() -> Result<()> {
    without("virtio", "checksum offload off", &CHECKSUMS)
}

#[test]
fn virtio_without_anything() -> Result<()> {
    without("virtio", "all offloads off", &[&SEGMENTATION[..], &JOINING, &CHECKSUMS].concat())
}

#[test]
fn virtio_that_changes_in_the_middle() -> Result<()> {
    play("virtio", "all offloads off and on again in mid-flow", |net| {
        plain(net, |scene| {
            switch(&scene.net, &SEGMENTATION, false)?;
            switch(&scene.net, &JOINING, false)?;
            switch(&scene.net, &CHECKSUMS, false)?;
            switch(&scene.net, &CHECKSUMS, true)?;
            switch(&scene.net, &JOINING, true)?;
            switch(&scene.net, &SEGMENTATION, true)
        })
    })
}

#[test]
fn virtio_with_lists() -> Result<()> {
    play("virtio", "rx-gro-list on, GRO in hardware off", |net| {
        switch(&net, &["rx-gro-hw"], false)?;
        for interface in ["client", "backend"] {
            ensure!(net.edge.set_feature(interface, "rx-gro-list", true)?, "no lists");
        }
        plain(net, |_| Ok(()))
    })
}

#[test]
fn e1000e() -> Result<()> {
    defaults("e1000e")
}

#[test]
fn e1000e_without_anything() -> Result<()> {
    without(
        "e1000e",
        "all offloads off",
        &[&SEGMENTATION[..], &JOINING, &CHECKSUMS, &["rx-checksum"]].concat(),
    )
}

#[test]
fn e1000e_with_lists() -> Result<()> {
    play("e1000e", "rx-gro-list on", |net| {
        switch(&net, &["rx-gro-list"], true)?;
        plain(net, |_| Ok(()))
    })
}

/// On at all interfaces, as they come.
#[test]
fn vmxnet3_with_large_receive() -> Result<()> {
    play("vmxnet3", "defaults", |net| refused(net, "large_receive", |net| switch(net, &["rx-lro"], false)))
}

#[test]
fn vmxnet3_without() -> Result<()> {
    without("vmxnet3", "LRO off", &["rx-lro"])
}

#[test]
fn vmxnet3_with_large_receive_at_the_edge() -> Result<()> {
    play("vmxnet3", "LRO at the edge only", |net| {
        net.client.set_feature("edge", "rx-lro", false)?;
        net.backend.set_feature("edge", "rx-lro", false)?;
        refused(net, "large_receive", |net| switch(net, &["rx-lro"], false))
    })
}

#[test]
fn vmxnet3_with_large_receive_at_the_ends() -> Result<()> {
    play("vmxnet3", "LRO at the ends only", |net| {
        net.edge.set_feature("client", "rx-lro", false)?;
        net.edge.set_feature("backend", "rx-lro", false)?;
        plain(net, |_| Ok(()))
    })
}

#[test]
fn igb() -> Result<()> {
    defaults("igb")
}
