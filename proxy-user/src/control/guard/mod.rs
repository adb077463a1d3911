//! The guard: keeps its program attached, tells it what it has to know, and bans who misbehaves.

mod apart;
mod bans;
pub(crate) mod command;
mod deny_file;
mod follow;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::guard::{Bans, Endpoint, Rate, Refusal, Table, Why};

use self::apart::{Apart, NotDone};
use super::config::ConfigErrors;
use super::{Exit, Failure};
use crate::hub::{Hub, Phase, Sources, keep_running, snapshot};
use crate::kernel::Unavailable;
use crate::kernel::guard as kernel;
use crate::kernel::guard::Link;
use crate::sys;
pub(in crate::control) use command::status_line;
pub(in crate::control) use report::{GuardReport, Interface, Listed};

/// How often bans that are over are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// How often the attachments and the map of sources are looked at, in rounds.
const LOOK_EVERY: u64 = 5;

/// The bucket of all sources together holds what may come within this time.
const CEILING_BURST: u32 = 10;

/// The guard of a running daemon.
pub(crate) struct Guard {
    hub: Arc<Hub>,
    config: snapshot::Guard,
    kernel: kernel::Guard,
    state: Mutex<State>,
    /// Reads the deny file.
    reading: Apart,
}

struct State {
    bans: Bans,
    /// Bans that were made, and that were not made, since start.
    made: BTreeMap<Why, u64>,
    refused: BTreeMap<&'static str, u64>,
    /// What the file of the configuration says.
    file: Vec<IpNet>,
    /// Attached, or why not. An interface that is not there is not in here.
    places: BTreeMap<Arc<str>, Result<Link, Unavailable>>,
    /// Interfaces that are not there, and of which the log says so.
    absent: BTreeSet<Arc<str>>,
    endpoints: HashSet<Endpoint>,
    /// Entries of the map of sources.
    watched: u64,
}

/// What has become of the guard that the configuration asks for.
pub(crate) type Started = Option<Result<Arc<Guard>, Unavailable>>;

/// Loads and attaches it. A guard that cannot be had is no reason not to serve.
///
/// # Errors
/// The file of networks to deny is not as it should be.
pub(crate) fn start(hub: &Arc<Hub>) -> Result<Started, Failure> {
    let Some(config) = hub.config.current().guard.clone() else { return Ok(None) };
    let file = check(&hub.config.current())?;
    let guard = match kernel::Guard::load(&setup(&config)) {
        Ok(kernel) => Arc::new(Guard::new(Arc::clone(hub), config, kernel, file)),
        Err(reason) => {
            tracing::error!(%reason, "no guard: all packets are let in");
            return Ok(Some(Err(reason)));
        }
    };
    guard.compile(&guard.state()).map_err(|error| Failure::new(Exit::Config, error))?;
    guard.look();
    guard.hub.sources.get_or_init(|| Arc::new(Sources::new(guard.config.source_bits)));
    let followed = Arc::clone(&guard);
    tokio::spawn(async move {
        keep_running("keeping the guard attached", || follow::run(Arc::clone(&followed))).await;
    });
    Ok(Some(Ok(guard)))
}

/// Reads the networks to deny that are in a file of their own.
///
/// # Errors
/// They cannot be read, or are too many.
pub(crate) fn check(snapshot: &snapshot::Snapshot) -> Result<Vec<IpNet>, Failure> {
    let Some(config) = &snapshot.guard else { return Ok(Vec::new()) };
    let file = config.deny_file.as_deref().map(deny_file::read).transpose();
    let file = file?.unwrap_or_default();
    let deny = config.deny.iter().chain(&file).copied();
    Table::build(config.allow.iter().copied(), deny).map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(file)
}

/// Whether the kernel takes the program, for doctor.
pub(in crate::control) fn try_load() -> Result<(), Unavailable> {
    let unlimited = Rate::UNLIMITED;
    let setup = kernel::Setup {
        dry_run: true,
        source_bits: [32, 64],
        source: unlimited,
        ceiling: unlimited,
        reserve: unlimited,
        sources: 1024,
    };
    kernel::Guard::load(&setup).map(drop)
}

fn setup(config: &snapshot::Guard) -> kernel::Setup {
    let reserve = u64::from(config.syn_ceiling) * u64::from(config.syn_reserve) / 100;
    let reserve = u32::try_from(reserve).unwrap_or(0);
    let together = |rate: u32| Rate::new(rate, rate / CEILING_BURST);
    kernel::Setup {
        dry_run: config.dry_run,
        source_bits: config.source_bits,
        source: Rate::new(config.syn_rate, config.syn_burst),
        ceiling: together(config.syn_ceiling - reserve),
        reserve: together(reserve),
        sources: config.sources,
    }
}

impl Guard {
    fn new(hub: Arc<Hub>, config: snapshot::Guard, kernel: kernel::Guard, file: Vec<IpNet>) -> Self {
        let state = State {
            bans: Bans::new(config.bans),
            made: BTreeMap::new(),
            refused: BTreeMap::new(),
            file,
            places: BTreeMap::new(),
            absent: BTreeSet::new(),
            endpoints: HashSet::new(),
            watched: 0,
        };
        Self { hub, config, kernel, state: Mutex::new(state), reading: Apart::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the program the lists as they are now.
    fn compile(&self, state: &State) -> Result<(), proxy_common::guard::TooMany> {
        let banned = state.bans.iter().map(|(net, _)| net).filter(|net| !self.is_source(net));
        let deny = self.config.deny.iter().chain(&state.file).copied().chain(banned);
        self.kernel.set_lists(&Table::build(self.config.allow.iter().copied(), deny)?);
        Ok(())
    }

    /// Reads the file of networks to deny anew. What it says counts all at once, or not at all.
    ///
    /// # Errors
    /// It is not as it should be: what counted before still does.
    pub(in crate::control) async fn reload(self: Arc<Self>) -> Result<usize, NotReloaded> {
        let Some(path) = &self.config.deny_file else {
            return Err(NotReloaded::NotConfigured);
        };
        let file = self.read_apart(path).await?;
        let mut state = self.state();
        let before = std::mem::replace(&mut state.file, file);
        if let Err(error) = self.compile(&state) {
            state.file = before;
            return Err(error.into());
        }
        tracing::info!(file = %path.display(), networks = state.file.len(), "deny file read anew");
        Ok(state.file.len())
    }

    /// Reads the deny file in a thread of its own, one at a time: the disk may hang, and the main thread has more to do.
    async fn read_apart(self: &Arc<Self>, path: &Path) -> Result<Vec<IpNet>, NotReloaded> {
        let read = path.to_owned();
        let read = self.reading.run("deny-file", move || deny_file::read(&read)).await;
        Ok(read.map_err(|reason| match reason {
            NotDone::Busy => NotReloaded::Busy(path.to_owned()),
            NotDone::NoThread(error) => NotReloaded::NoThread(error),
            NotDone::Panicked => NotReloaded::Panicked(path.to_owned()),
        })??)
    }

    /// Looks at interfaces and addresses, and does what is to be done.
    fn look(&self) {
        match sys::interfaces() {
            Ok(found) => self.adapt(&found),
            Err(error) => tracing::warn!(%error, "cannot list the interfaces"),
        }
    }
}

/// Why the deny file was not read anew.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum NotReloaded {
    #[error("the configuration has no deny_file in [guard]")]
    NotConfigured,
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
    #[error(transparent)]
    TooMany(#[from] proxy_common::guard::TooMany),
    #[error("{} is still being read for an earlier request", .0.display())]
    Busy(PathBuf),
    #[error("cannot start a thread: {0}")]
    NoThread(std::io::Error),
    #[error("{} could not be read, by a defect of this program; the log says more", .0.display())]
    Panicked(PathBuf),
}

/// Why an operator's request is not followed.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum Refused {
    #[error("{0}")]
    Policy(#[from] Refusal),
    #[error("{0}")]
    TooMany(#[from] proxy_common::guard::TooMany),
    #[error("the kernel does not take it: {0}")]
    Kernel(#[from] std::io::Error),
}

/// Whether the daemon still accepts connections.
fn is_running(hub: &Hub) -> bool {
    hub.phases.now() != Phase::Stopped
}
