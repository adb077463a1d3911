//! `test --cards`: offloaded connections over network cards. One virtual machine has the client, the edge and the server in network
//! namespaces of their own, joined by its cards; bridges of this host join the cards to each other, and let packets with segmentation
//! and checksums still to be done cross as they are.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::part::{Column, Part};
use super::summary::Stage;
use super::{Datapath, Options, cards_table, guest, outcome};
use crate::{privilege, process, setup};

/// The program that the tests are in.
pub(super) const PROGRAM: &str = "cards";

/// The suite of Debian whose kernel is used if nothing else is asked for.
pub(super) const KERNEL: &str = "trixie";

/// A card that the machine has four of: its name in the tests, what QEMU calls it, and the queues that the host gives it.
struct Card {
    name: &'static str,
    device: &'static str,
    queues: u8,
    /// Each needs a port of PCI Express of its own.
    has_port: bool,
}

const CARDS: [Card; 5] = [
    Card { name: "virtio", device: "virtio-net-pci", queues: 1, has_port: false },
    Card { name: "virtio-4q", device: "virtio-net-pci,mq=on,vectors=10", queues: 4, has_port: false },
    Card { name: "e1000e", device: "e1000e", queues: 1, has_port: false },
    Card { name: "vmxnet3", device: "vmxnet3", queues: 1, has_port: false },
    Card { name: "igb", device: "igb", queues: 1, has_port: true },
];

/// The drivers, which nothing in the guest loads by itself. Without 8021q a card that filters VLANs, as virtio-net does, keeps frames with a
/// priority and no VLAN from every program of the guest, ours or not.
const DRIVERS: &str = "for driver in 8021q virtio_net e1000e vmxnet3 igb; do /sbin/modprobe $driver; done\n";

/// Ends of the two wires of a card: client to edge, edge to server.
const WIRES: [[u8; 2]; 2] = [[1, 2], [3, 4]];

/// The namespace of this host that has the bridges; it goes with this value.
struct Bridges(String);

impl Bridges {
    fn create() -> Result<Self> {
        let bridges = Self(format!("snisplice-cards-{}", std::process::id()));
        let name = bridges.0.clone();
        ip(&["netns", "add", &name])?;
        bridges.inside(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])?;
        for (number, card) in (0_u8..).zip(&CARDS) {
            for wire in WIRES {
                let bridge = format!("b{number}{}", wire[0]);
                ip(&["-n", &name, "link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"])?;
                for end in wire {
                    let tap = tap(number, end);
                    let mut add = vec!["-n", &name, "tuntap", "add", &tap, "mode", "tap", "vnet_hdr"];
                    add.extend((card.queues > 1).then_some("multi_queue"));
                    ip(&add)?;
                    ip(&["-n", &name, "link", "set", &tap, "mtu", "9216", "master", &bridge, "up"])?;
                }
                ip(&["-n", &name, "link", "set", &bridge, "up"])?;
            }
        }
        Ok(bridges)
    }

    fn inside(&self, words: &[&str]) -> Result<()> {
        ip(&[&["netns", "exec", &self.0], words].concat())
    }

    /// The same command inside.
    fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = privilege::as_root("ip");
        wrapped.args(["netns", "exec", &self.0]).arg(command.get_program()).args(command.get_args());
        wrapped
    }
}

impl Drop for Bridges {
    fn drop(&mut self) {
        drop(ip(&["netns", "del", &self.0]));
    }
}

fn tap(card: u8, end: u8) -> String {
    format!("t{card}{end}")
}

fn ip(words: &[&str]) -> Result<()> {
    let mut command = privilege::as_root("ip");
    process::answer(command.args(words)).map(drop).with_context(|| format!("ip {}", words.join(" ")))
}

/// What the tests are told: where which cards are, by their hardware addresses.
fn before() -> String {
    let cards = (0_u8..).zip(&CARDS).map(|(number, card)| format!("{}={number}", card.name));
    format!("{DRIVERS}export SNISPLICE_TEST_CARDS='{}'\n", cards.collect::<Vec<_>>().join(" "))
}

fn add_cards(machine: &mut Command) {
    machine.args(["-machine", "q35"]);
    for (number, card) in (0_u8..).zip(&CARDS) {
        for end in WIRES.concat() {
            let tap = tap(number, end);
            let queues = if card.queues > 1 { format!(",queues={}", card.queues) } else { String::new() };
            let net = format!("tap,id={tap},ifname={tap},script=no,downscript=no,vhost=off{queues}");
            let mut device =
                format!("{},netdev={tap},romfile=,mac=52:54:00:0c:{number:02x}:{end:02x}", card.device);
            if card.has_port {
                machine.args(["-device", &format!("pcie-root-port,id=p{tap},chassis={end}")]);
                device.push_str(&format!(",bus=p{tap}"));
            }
            machine.args(["-netdev", &net, "-device", &device]);
        }
    }
}

/// The combinations whose names contain one of `names`, or all, on the newest kernel of a suite.
pub(super) fn stage(suite: &str, names: &[String], options: &Options) -> Stage {
    let began = Instant::now();
    let prepared = setup::for_cards(suite).and_then(|found| {
        let part = Part {
            program: PROGRAM.to_owned(),
            tests: names.to_vec(),
            datapath: Datapath::Packet,
            threads: "1",
            column: Column::Packet,
        };
        let mut machine = guest::play(&found, &before(), &[part])?;
        add_cards(&mut machine);
        let bridges = Bridges::create()?;
        Ok((found.kernel.release, bridges.wrap(&machine), bridges))
    });
    match prepared {
        Ok((release, command, bridges)) => {
            let name = format!("cards (Linux {release})");
            let (mut stage, log) = outcome::of_guest(&name, command, options);
            drop(bridges);
            if let Err(error) = cards_table::write(&log, &release, names.is_empty()) {
                stage.failed.push(format!("{error:#}"));
            }
            Stage { took: began.elapsed(), ..stage }
        }
        Err(error) => {
            let skipped = vec![format!("no virtual machine with network cards: {error:#}")];
            Stage { name: format!("cards ({suite})"), skipped, took: began.elapsed(), ..Stage::default() }
        }
    }
}
