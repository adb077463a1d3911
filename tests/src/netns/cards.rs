//! A network of a test whose links are cards of the machine that it runs on.

use std::env;
use std::fs;

use anyhow::{Context as _, Result};

use super::{Topology, ip};
use crate::deadline::{PATIENCE, wait_for};

/// Which cards there are: names, with the number that their hardware addresses have.
const CARDS: &str = "SNISPLICE_TEST_CARDS";

/// A kind of card of which the machine has four, joined in pairs.
#[derive(Debug, Clone, Copy)]
pub struct Card(u8);

impl Card {
    /// The card of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        let cards = env::var(CARDS).ok()?;
        let mut pairs = cards.split(' ').filter_map(|card| card.split_once('='));
        let (_, number) = pairs.find(|(card, _)| *card == name)?;
        number.parse().ok().map(Self)
    }

    /// Its ends: the client's, two of the edge, and the server's. Those of a test that has just ended come back when the kernel has
    /// removed its namespaces.
    fn ends(self) -> Result<[String; 4]> {
        let Self(card) = self;
        let find = |end: u8| {
            let address = format!("52:54:00:0c:{card:02x}:{end:02x}");
            let names = fs::read_dir("/sys/class/net").ok()?.flatten();
            let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
            names.find(|name| {
                let file = format!("/sys/class/net/{name}/address");
                fs::read_to_string(file).is_ok_and(|found| found.trim() == address)
            })
        };
        let wait = |end| wait_for(&format!("end {end} of the card"), PATIENCE, || find(end));
        Ok([wait(1)?, wait(2)?, wait(3)?, wait(4)?])
    }
}

/// What a card does for the kernel if nobody has switched it off, and the one thing that is off.
const ON: [&str; 10] = [
    "rx-checksum",
    "tx-checksum-ip-generic",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-generic-segmentation",
    "rx-gro",
    "rx-gro-hw",
    "rx-lro",
    "rx-vlan-hw-parse",
    "tx-vlan-hw-insert",
];
const OFF: &str = "rx-gro-list";

impl Topology {
    /// Three namespaces joined by the cards of a kind.
    ///
    /// # Errors
    /// When `ip` fails, or a card is missing.
    pub fn of_cards(card: Card) -> Result<Self> {
        let topology = Self::bare()?;
        topology.add_cards(card, "")?;
        topology.set_up()?;
        Ok(topology)
    }

    /// Joins the namespaces by cards of another kind as well. Their names end with `suffix`, and they have no addresses.
    ///
    /// # Errors
    /// As above.
    pub fn add_cards(&self, card: Card, suffix: &str) -> Result<()> {
        let [client, near, far, server] = card.ends()?;
        let moves = [
            (client, &self.client, "edge"),
            (near, &self.edge, "client"),
            (far, &self.edge, "backend"),
            (server, &self.backend, "edge"),
        ];
        for (interface, namespace, name) in moves {
            let name = format!("{name}{suffix}");
            ip(&["link", "set", &interface, "down", "mtu", "1500"], "")?;
            ip(&["link", "set", &interface, "netns", namespace.name(), "name", &name], "")
                .with_context(|| format!("moving {interface}"))?;
            for feature in ON {
                // A card need not have it.
                drop(namespace.set_feature(&name, feature, true));
            }
            drop(namespace.set_feature(&name, OFF, false));
        }
        Ok(())
    }
}
