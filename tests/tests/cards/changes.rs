//! Cards that change while connections use them.

use anyhow::{Context as _, Result};
use harness::netns::{Card, Rings};

use crate::combination::{plain, play};

#[test]
fn a_link_that_goes_down_and_up() -> Result<()> {
    for card in ["virtio", "e1000e"] {
        play(card, "link down and up in mid-flow", |net| {
            plain(net, |scene| {
                scene.net.edge.ip_batch("link set client down\nlink set client up\n")?;
                scene.net.edge.ip_batch("link set backend down\nlink set backend up\n")
            })
        })?;
    }
    Ok(())
}

#[test]
fn queues_that_become_fewer_and_more() -> Result<()> {
    play("virtio-4q", "1 queue, then 3, in mid-flow", |net| {
        plain(net, |scene| {
            for queues in [1, 3] {
                scene.net.edge.set_queues("client", queues)?;
                scene.net.edge.set_queues("backend", queues)?;
            }
            Ok(())
        })
    })
}

#[test]
fn rings_that_become_smaller_and_larger() -> Result<()> {
    play("e1000e", "rings of 80 slots, then 512, in mid-flow", |net| {
        plain(net, |scene| {
            for slots in [80, 512] {
                scene.net.edge.set_rings("client", Rings { receive: slots, send: slots })?;
                scene.net.edge.set_rings("backend", Rings { receive: slots, send: slots })?;
            }
            Ok(())
        })
    })
}

#[test]
fn a_bond_whose_member_fails() -> Result<()> {
    play("virtio", "bond with e1000e (active-backup), failover in mid-flow", |net| {
        net.add_cards(Card::named("e1000e").context("no second card")?, "2")?;
        for (namespace, interface, host) in [(&net.edge, "client", 1), (&net.client, "edge", 2)] {
            namespace.ip_batch(&format!(
                "link add bond0 type bond mode active-backup miimon 100\n\
                 link set {interface} down\nlink set {interface} master bond0\n\
                 link set {interface}2 master bond0\nlink set bond0 up\n\
                 address flush dev {interface}\naddress add 10.1.0.{host}/24 dev bond0\n"
            ))?;
        }
        net.client.ip_batch("route replace default via 10.1.0.1\n")?;
        plain(net, |scene| {
            scene.net.edge.ip_batch("link set bond0 type bond active_slave client2\n")?;
            scene.net.client.ip_batch("link set bond0 type bond active_slave edge2\n")?;
            scene.net.edge.ip_batch("link set client down\n")
        })
    })
}
