//! Packets of other sizes: jumbo frames, a way that becomes narrower, and more than 64 KiB at once.

use anyhow::{Result, ensure};
use harness::netns::Namespace;
use harness::peers::raw::transfer;

use crate::combination::{Plan, Scene, carried, plain, play};

fn widen(near: (&Namespace, &str), far: &Namespace) -> Result<()> {
    near.0.ip_batch(&format!("link set {} mtu 9000\n", near.1))?;
    far.ip_batch("link set edge mtu 9000\n")
}

#[test]
fn jumbo_frames_everywhere() -> Result<()> {
    play("virtio", "MTU 9000 on both sides", |net| {
        widen((&net.edge, "client"), &net.client)?;
        widen((&net.edge, "backend"), &net.backend)?;
        plain(net, |_| Ok(()))
    })
}

#[test]
fn jumbo_frames_at_the_server() -> Result<()> {
    play("e1000e", "MTU 9000 at the server, 1500 at the client", |net| {
        widen((&net.edge, "backend"), &net.backend)?;
        plain(net, |_| Ok(()))
    })
}

#[test]
fn jumbo_frames_at_the_client() -> Result<()> {
    play(
        "virtio",
        "MTU 9000 at the client, 1500 at the server; the first connection is copied (segment_size)",
        |net| {
            widen((&net.edge, "client"), &net.client)?;
            let scene = Scene::start(net, Plan::default())?;
            let (mut client, mut server) = scene.connect()?;
            let refused = [("from", "packet"), ("reason", "segment_size")];
            scene.daemon.wait_for_metric("snisplice_datapath_fallbacks_total", &refused, 1.0)?;
            transfer(&mut client, &mut server, 2, 1 << 20)?;
            drop((client, server));
            scene.daemon.wait_for_idle()?;
            carried(scene, |_| Ok(()))
        },
    )
}

#[test]
fn a_way_that_becomes_narrower() -> Result<()> {
    play("virtio", "MTU of the way to the server from 1500 to 1400 in mid-flow", |net| {
        plain(net, |scene| scene.net.edge.ip_batch("link set backend mtu 1400\n"))
    })
}

#[test]
fn more_than_64_kib_at_once() -> Result<()> {
    play("virtio", "gro_max_size 190000, IPv6", |net| {
        net.edge.ip_batch("link set client gro_max_size 190000\nlink set backend gro_max_size 190000\n")?;
        let scene = Scene::start(net, Plan { is_ipv6: true, ..Plan::default() })?;
        let outcome = carried(scene, |scene| {
            scene
                .net
                .edge
                .ip_batch("link set client gro_max_size 65536\nlink set backend gro_max_size 65536\n")
        })?;
        ensure!(outcome.mean > 1500, "no packets were joined");
        Ok(outcome)
    })
}
