//! A bad network: what comes in by an interface is lost, doubled and reordered by a BPF program.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::PerCpuArray;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};

use crate::netns::{Namespace, Topology};

/// How many packets of a million.
#[derive(Debug, Clone, Copy, Default)]
pub struct Badness {
    /// Are lost,
    pub lost: u32,
    /// arrive twice,
    pub doubled: u32,
    /// arrive behind later ones.
    pub late: u32,
    /// Also what resets a connection, or begins it: with that, the network may say what is not so.
    pub unsparing: bool,
}

impl Badness {
    /// As on a network that is well.
    pub const LITTLE: Self = Self { lost: 1_000, doubled: 1_000, late: 5_000, unsparing: false };
    /// As on one that is not.
    pub const MUCH: Self = Self { lost: 10_000, doubled: 5_000, late: 10_000, unsparing: false };
}

/// In force as long as the value lives.
#[derive(Debug)]
pub struct Impaired(Ebpf);

impl Impaired {
    /// Makes what comes in anywhere so bad: at both ends, and at the edge from both sides.
    ///
    /// # Errors
    /// As below.
    pub fn everywhere(net: &Topology, badness: Badness) -> Result<Vec<Self>> {
        [(&net.client, "edge"), (&net.backend, "edge"), (&net.edge, "client"), (&net.edge, "backend")]
            .into_iter()
            .map(|(namespace, interface)| Self::at(namespace, interface, badness))
            .collect()
    }

    /// Makes what comes in by `interface` of `namespace` so bad.
    ///
    /// # Errors
    /// When the program is not built, or the kernel refuses it.
    pub fn at(namespace: &Namespace, interface: &str, badness: Badness) -> Result<Self> {
        Self::attach("impair", TcAttachType::Ingress, (namespace, interface), badness, u32::MAX)
    }

    /// Stops the clock of the time stamps that go out by `interface`: the latest one is what the kernel's clock (with
    /// `tcp_timestamps` = 2) says at this milliseconds.
    ///
    /// # Errors
    /// As above.
    pub fn stopped(namespace: &Namespace, interface: &str, at_ms: u32) -> Result<Self> {
        Self::attach("stop", TcAttachType::Egress, (namespace, interface), Badness::default(), at_ms)
    }

    /// Gives what goes out by `interface` a tag that says how urgent it is, and no VLAN.
    ///
    /// # Errors
    /// As above.
    pub fn tagged(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::attach("tag", TcAttachType::Egress, (namespace, interface), Badness::default(), u32::MAX)
    }

    fn attach(
        name: &str,
        side: TcAttachType,
        (namespace, interface): (&Namespace, &str),
        badness: Badness,
        stopped_ms: u32,
    ) -> Result<Self> {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/impair.o");
        let bytes = std::fs::read(&object)
            .with_context(|| format!("no {}: run `cargo xtask build`", object.display()))?;
        let mut loader = EbpfLoader::new();
        let Badness { lost, doubled, late, unsparing } = badness;
        loader.override_global("SPARING", if unsparing { &0_u32 } else { &1 }, true);
        let globals = [("LOST", &lost), ("DOUBLED", &doubled), ("LATE", &late), ("STOPPED", &stopped_ms)];
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(&bytes)?;
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).context("the object has no such program")?.try_into()?;
        program.load()?;
        // Before the programs of a daemon that has attached its own already: they see what the network has left.
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        namespace.enter(|| {
            let attached = program.attach_with_options(interface, side, first).or_else(|_| {
                // Before Linux 6.6. A `clsact` may be there already.
                drop(qdisc_add_clsact(interface));
                program.attach_with_options(interface, side, TcAttachOptions::Netlink(NlOptions::default()))
            });
            attached.map(drop).map_err(|error| anyhow!("{error}"))
        })?;
        Ok(Self(ebpf))
    }

    /// What was done so far: lost, doubled, made to wait.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn done(&self) -> Result<[u64; 3]> {
        let counters: PerCpuArray<_, u64> =
            self.0.map("DONE").context("the object has no counters")?.try_into()?;
        let sum = |what: u32| Ok::<u64, anyhow::Error>(counters.get(&what, 0)?.iter().sum());
        Ok([sum(0)?, sum(1)?, sum(2)?])
    }
}
