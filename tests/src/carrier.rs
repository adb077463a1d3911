//! Datapaths as the contract knows them: what to ask the daemon for, where the servers run, and by which counters it is
//! proved that the bytes went that way.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::daemon::{Access, Daemon, Datapath, Kernel, Launch, Packet};
use crate::netns::{Namespace, Topology, backend};

/// A datapath, and the network that it needs.
#[derive(Debug, Clone, Copy)]
pub struct Carrier {
    /// Its name in metrics and access records.
    pub name: &'static str,
    /// What the configuration asks for.
    pub datapath: Datapath,
    /// Where its servers run.
    pub place: Place,
    /// The bytes that the kernel says it moved this way; none: the kernel moves nothing.
    kernel: Option<fn(&Kernel) -> u64>,
}

/// Where the servers of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a host of their own.
    Backend,
    /// On the daemon's host.
    Edge,
}

/// Userspace: the reference.
pub const COPY: Carrier =
    Carrier { name: "copy", datapath: Datapath::Copy, place: Place::Backend, kernel: None };

/// Every datapath that has to keep the contract, the reference first.
pub const CARRIERS: [Carrier; 4] = [
    COPY,
    Carrier {
        name: "sockmap",
        datapath: Datapath::Sockmap,
        place: Place::Backend,
        kernel: Some(|kernel| kernel.redirected_bytes),
    },
    Carrier {
        name: "local",
        datapath: Datapath::Local,
        place: Place::Edge,
        kernel: Some(|kernel| kernel.redirected_bytes + kernel.bypassed_bytes),
    },
    Carrier {
        name: "packet",
        datapath: Datapath::Packet,
        place: Place::Backend,
        kernel: Some(|kernel| kernel.redirected_bytes),
    },
];

/// What `auto` is between two hosts.
const BEST: &str = "sockmap";

/// Servers on the edge must leave its own listeners their ports.
const EDGE_SHIFT: u16 = 10_000;

impl Place {
    /// Where a server that elsewhere has `port` listens.
    pub fn address(self, port: u16) -> SocketAddr {
        match self {
            Self::Backend => backend(port),
            Self::Edge => SocketAddr::from((Ipv4Addr::LOCALHOST, port + EDGE_SHIFT)),
        }
    }

    /// The namespace of the servers.
    pub fn of(self, net: &Topology) -> &Namespace {
        match self {
            Self::Backend => &net.backend,
            Self::Edge => &net.edge,
        }
    }
}

impl Carrier {
    /// The one that `SNISPLICE_TEST_DATAPATH` names; without it, or for `auto`, what the daemon should choose by itself.
    ///
    /// # Errors
    /// When it names none.
    pub fn of_environment() -> Result<Self> {
        let asked = env::var("SNISPLICE_TEST_DATAPATH").unwrap_or_else(|_| "auto".to_owned());
        let is_auto = asked == "auto";
        let name = if is_auto { BEST } else { asked.as_str() };
        let Some(found) = CARRIERS.into_iter().find(|carrier| carrier.name == name) else {
            bail!("SNISPLICE_TEST_DATAPATH is {asked:?}: the contract has no such datapath")
        };
        Ok(if is_auto { Self { datapath: Datapath::Auto, ..found } } else { found })
    }

    /// The reference, with the servers at the same place.
    #[must_use]
    pub fn by_copy(self) -> Self {
        Self { place: self.place, ..COPY }
    }

    /// Whether the kernel moves its bytes.
    pub fn is_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Whether its flows are copied at first, so that short ones never go by it.
    pub fn begins_as_copy(&self) -> bool {
        matches!(self.datapath, Datapath::Auto | Datapath::Packet)
    }

    /// A daemon whose stop ends its flows. Those without sockets outlive it unless it is told to release them.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn launch(&self) -> Result<Launch> {
        let launch = Launch::new()?;
        Ok(if self.datapath == Datapath::Packet { launch.release() } else { launch })
    }

    /// For how long a flow that is over keeps its entries of maps: its ends may still have to hear the last of each other.
    #[must_use]
    pub fn linger(&self) -> Duration {
        if self.datapath == Datapath::Packet { Duration::from_secs(12) } else { Duration::ZERO }
    }

    /// Waits until the one flow that there is is carried this way, where that takes a while.
    ///
    /// # Errors
    /// When it is not within 10 s.
    pub fn wait_until_carried(&self, daemon: &Daemon) -> Result<()> {
        if self.begins_as_copy() {
            let own = Some(self.name);
            daemon.wait_for_flow("the flow to be handed over", |flow| flow.datapath.as_deref() == own)?;
        }
        Ok(())
    }

    /// Segments that the kernel has moved this way.
    ///
    /// # Errors
    /// When the daemon does not tell.
    pub fn segments(&self, daemon: &Daemon) -> Result<u64> {
        let status = daemon.status()?;
        if self.datapath == Datapath::Packet {
            return Ok(status.packet.context("the status has no counters of packets")?.forwarded);
        }
        Ok(status.kernel.context("the status has no kernel counters")?.redirected_segments)
    }

    /// What the daemon has counted for it so far.
    ///
    /// # Errors
    /// When the daemon does not tell.
    pub fn account(&self, daemon: &Daemon) -> Result<Account> {
        let metrics = daemon.metrics()?;
        let bytes = |direction| {
            metrics.count("snisplice_bytes_total", &[("datapath", self.name), ("direction", direction)])
        };
        let copied = metrics.count("snisplice_bytes_total", &[("datapath", COPY.name)]);
        let status = daemon.status()?;
        Ok(Account {
            bytes: [bytes("in"), bytes("out")],
            copied,
            kernel: status.kernel,
            packet: status.packet,
        })
    }

    /// Checks that the flows of `records` were carried this way: what the metrics grew by is what the records say, and the
    /// kernel's counters agree. Call it when nothing else has run since `before`.
    ///
    /// # Errors
    /// When they were not, or when the kernel moved less than a quarter of the bytes.
    pub fn prove(&self, daemon: &Daemon, before: &Account, records: &[Access]) -> Result<()> {
        // A server on the same host sends faster than any client reads: the daemon is in the middle of it then.
        let share = if self.place == Place::Edge { u64::MAX } else { 4 };
        self.prove_share(daemon, before, records, share)
    }

    /// The same where the kernel needs to have moved a `share`th only: bytes whose reader falls behind are copied.
    ///
    /// # Errors
    /// As above.
    pub fn prove_share(
        &self,
        daemon: &Daemon,
        before: &Account,
        records: &[Access],
        share: u64,
    ) -> Result<()> {
        let after = self.account(daemon)?;
        if self.datapath == Datapath::Packet {
            if share == u64::MAX && !records.iter().any(|record| self.is_of(record)) {
                return stayed_behind(daemon, before, &after, records);
            }
            return self.prove_packets(before, &after, records);
        }
        if self.begins_as_copy() {
            return total_is_right(before, &after, records);
        }
        let own = || records.iter().filter(|record| record.datapath.as_deref() == Some(self.name));
        let said =
            [own().map(|record| record.bytes_in).sum::<u64>(), own().map(|record| record.bytes_out).sum()];
        let grown = [after.bytes[0] - before.bytes[0], after.bytes[1] - before.bytes[1]];
        ensure!(grown == said, "the records have {said:?} bytes by {}, the metrics {grown:?}", self.name);
        ensure!(own().count() > 0, "no flow went by {}", self.name);
        let Some(moved) = self.kernel else {
            ensure!(before.kernel == after.kernel, "the kernel moved bytes: {before:?} {after:?}");
            return Ok(());
        };
        let kernel = |account: &Account| account.kernel.context("the status has no kernel counters");
        let (before, after) = (kernel(before)?, kernel(&after)?);
        let (moved, passed) = (moved(&after) - moved(&before), after.passed_bytes - before.passed_bytes);
        let carried = said[0] + said[1];
        ensure!(moved + passed >= carried, "the kernel moved {moved} and passed {passed} of {carried} bytes");
        ensure!(moved > 0 && moved >= carried / share, "the kernel moved {moved} of {carried} bytes only");
        Ok(())
    }

    fn is_of(&self, record: &Access) -> bool {
        record.datapath.as_deref() == Some(self.name)
    }

    /// A flow is copied until it leaves its sockets: what was copied counts for copy.
    fn prove_packets(&self, before: &Account, after: &Account, records: &[Access]) -> Result<()> {
        let total = |account: &Account| account.bytes.iter().sum::<u64>() + account.copied;
        let said: u64 = records.iter().map(|record| record.bytes_in + record.bytes_out).sum();
        let grown = total(after) - total(before);
        ensure!(grown == said, "the records have {said} bytes, the metrics {grown}");
        ensure!(records.iter().any(|record| self.is_of(record)), "no flow went by {}", self.name);
        let forwarded =
            |account: &Account| account.packet.map(|packet| packet.forwarded_bytes).context("no counters");
        let (moved, carried) = (forwarded(after)? - forwarded(before)?, total(after) - total(before));
        let by_packet = carried - (after.copied - before.copied);
        ensure!(moved >= by_packet, "the programs forwarded {moved} of {by_packet} bytes");
        Ok(())
    }
}

/// A flow whose readers are behind all the time may keep its sockets, which hold more than fits into a window. The daemon says so.
fn stayed_behind(daemon: &Daemon, before: &Account, after: &Account, records: &[Access]) -> Result<()> {
    let backlog = [("from", "packet"), ("reason", "backlog")];
    let said = daemon.metrics()?.sum("snisplice_datapath_fallbacks_total", &backlog);
    ensure!(said > 0.0, "no flow went by packet, and none is said to have stayed behind for its backlog");
    total_is_right(before, after, records)
}

/// What was copied of a flow counts for copy, whatever carried it later.
fn total_is_right(before: &Account, after: &Account, records: &[Access]) -> Result<()> {
    let total = |account: &Account| account.bytes.iter().sum::<u64>() + account.copied;
    let said: u64 = records.iter().map(|record| record.bytes_in + record.bytes_out).sum();
    let grown = total(after) - total(before);
    ensure!(grown == said, "the records have {said} bytes, the metrics {grown}");
    Ok(())
}

/// What the daemon has counted for a datapath.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Bytes carried by it, client to server first.
    pub bytes: [u64; 2],
    /// Bytes carried by userspace, both ways.
    pub copied: u64,
    /// The kernel's counters.
    pub kernel: Option<Kernel>,
    /// Those of packets.
    pub packet: Option<Packet>,
}
