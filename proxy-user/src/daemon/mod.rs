//! The daemon from start to stop.

mod bind;
mod kernel;
mod packet;
mod reload;
mod upkeep;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use self::packet::Left;
use self::upkeep::Upkeep;
use crate::control::admin::{self, Admin};
use crate::control::{Exit, Failure, Signals, events, guard, paths};
use crate::datapath::packet::PacketDatapath;
use crate::front::{self, ListenerSet, Sockets, WorkerInputs};
use crate::hub::snapshot::Snapshot;
use crate::hub::{ConnectionLimit, Hub, Inbox, Phase, Workers, keep_running};
use crate::kernel::{Kernel, Sockmap};
use crate::sys;

/// From the order to close until connections that have not ended are dropped, which resets them.
const CLOSING: Duration = Duration::from_secs(3);

/// Runs until a signal ends it. `release`: no connection is to outlive the daemon.
pub(crate) fn run(mut snapshot: Snapshot, release: bool) -> Result<(), Failure> {
    if let Some(reason) = crate::kernel::packet_caution().filter(|_| snapshot.forbid_auto_to_offload()) {
        tracing::warn!(%reason, "connections of upstreams with datapath = \"auto\" are not offloaded");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::System, format_args!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(|error| Failure::new(Exit::System, error))?;
        let daemon = Daemon::start(snapshot).await?;
        let is_whole = tokio::select! {
            () = signals.stop() => true,
            () = daemon.failed() => false,
        };
        daemon.stop(&mut signals, release).await;
        if is_whole {
            return Ok(());
        }
        Err(Failure::new(Exit::System, "a worker has failed; the log says why"))
    })
}

/// All that runs.
struct Daemon {
    hub: Arc<Hub>,
    listeners: ListenerSet,
    workers: Vec<JoinHandle<()>>,
    upkeep: Arc<Upkeep>,
    packet: Option<Arc<PacketDatapath>>,
    /// Offloaded connections of an earlier daemon, while no upstream may have any.
    left: Left,
}

impl Daemon {
    /// Begins to accept connections. Must run inside the runtime.
    ///
    /// # Errors
    /// What the daemon cannot do without is missing: an address, a file, the admin endpoint, a thread.
    async fn start(snapshot: Snapshot) -> Result<Self, Failure> {
        paths::check(&snapshot)?;
        let files = open_files();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (workers, inboxes) = Workers::new(cores);
        let mut listeners = ListenerSet::new(Arc::clone(&workers));
        listeners.follow(&snapshot, Sockets::new()).map_err(|error| bind::failure(&error))?;
        let endpoint = admin::open(&snapshot.admin)
            .map_err(|error| Failure::new(bind::exit(error.error.kind()), error))?;
        let limit = ConnectionLimit::new(files, cores as u64);
        let hub = Arc::new(Hub::new(snapshot, limit, workers));
        let upkeep = Upkeep::start(Arc::clone(&hub));
        let upkeep = Arc::new(upkeep.map_err(|error| cannot_start("the upkeep thread", &error))?);
        // Before connections of an earlier daemon are found: it is to know where they come from.
        let guard = guard::start(&hub)?;
        let packet = packet::open(&hub, &upkeep);
        let kernel = Arc::new(kernel::probe(&hub, &upkeep, packet.as_ref()));
        let packet = packet.and_then(Result::ok);
        let left = packet::look_for_left(&hub, &upkeep, &kernel);
        front::start_resolver(&hub).map_err(|error| cannot_start("the look-up of names", &error))?;
        front::follow_own_addresses(&hub);
        let (workers, ready) = start_workers(&hub, inboxes, &kernel, packet.as_ref())
            .map_err(|error| cannot_start("the workers", &error))?;
        let (all, parts) = (Arc::clone(&hub), Arc::clone(&kernel));
        upkeep.spawn(async move {
            keep_running("regular checks", || events::rounds(Arc::clone(&all), Arc::clone(&parts))).await;
        });
        let admin = Arc::new(Admin::new(Arc::clone(&hub), kernel, guard));
        tokio::spawn(async move {
            if let Err(error) = admin::serve(endpoint, admin).await {
                tracing::error!(%error, "the admin endpoint has failed");
            }
        });
        for worker in ready {
            // One that has gone stops the daemon.
            let _ = worker.await;
        }
        hub.connection_limit.open(sys::open_files());
        announce(&hub);
        Ok(Self { hub, listeners, workers, upkeep, packet, left })
    }

    /// Returns if a part has failed without which the daemon must not go on.
    async fn failed(&self) {
        self.hub.phases.reached(Phase::Stopped).await;
    }

    /// Lets connections end, then ends them. Those that are offloaded outlive the daemon, unless they are to be released:
    /// then they get sockets, so that they end as all others do.
    async fn stop(mut self, signals: &mut Signals, release: bool) {
        let packet = self.packet.take().or_else(|| self.left.get().cloned());
        let released = packet.as_ref().filter(|_| release);
        self.drain(signals, released).await;
        self.hub.phases.advance(Phase::Stopped);
        for worker in self.workers {
            let _ = worker.join();
        }
        tracing::info!("stopped");
        drop(self.upkeep);
        if let Some(packet) = &packet {
            packet::leave(&self.hub, packet, release);
        }
    }

    async fn drain(&mut self, signals: &mut Signals, released: Option<&Arc<PacketDatapath>>) {
        let hub = &self.hub;
        let limit = hub.config.current().timeouts.drain;
        hub.phases.advance(Phase::Draining);
        self.listeners.drain();
        tracing::info!(
            flows = if released.is_some() { hub.flows.count() } else { hub.flows.count_sockets() },
            limit_ms = millis(limit),
            "draining; a second signal ends at once"
        );
        let is_hurried = tokio::select! {
            () = hub.flows.none_left(), if released.is_none() => false,
            () = hub.flows.none_at_all() => false,
            () = tokio::time::sleep(limit) => false,
            () = signals.stop() => true,
        };
        if let Some(packet) = released.filter(|_| !is_hurried) {
            let (packet, all) = (Arc::clone(packet), Arc::clone(hub));
            tokio::select! {
                _ = tokio::spawn(async move { packet.take_all_back(&all).await }) => {}
                () = signals.stop() => {}
            }
        }
        hub.close_flows();
        if let Some(packet) = released {
            packet.end_all(hub);
            packet.told().await;
        }
        let left = hub.flows.count_sockets();
        if left > 0 {
            tracing::info!(flows = left, "closing the flows that are left");
        }
        tokio::select! {
            () = hub.flows.none_left(), if released.is_none() => {}
            // Some may be on their way to a worker.
            () = hub.flows.none_at_all() => {}
            () = tokio::time::sleep(CLOSING) => {}
            () = signals.stop() => {}
        }
    }
}

/// Raises the limit on open files as far as it goes, and says what it is then. None: unlimited.
fn open_files() -> Option<u64> {
    let (before, _) = sys::open_file_limit();
    if let Err(error) = sys::raise_open_file_limit() {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let (now, _) = sys::open_file_limit();
    if now != before {
        tracing::info!(before, now, "raised the limit on open files to the hard limit");
    }
    now
}

fn cannot_start(what: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::System, format_args!("cannot start {what}: {error}"))
}

/// The threads of the workers, and what each says once it is ready.
type Started = (Vec<JoinHandle<()>>, Vec<oneshot::Receiver<()>>);

fn start_workers(
    hub: &Arc<Hub>,
    inboxes: Vec<Inbox>,
    kernel: &Kernel,
    packet: Option<&Arc<PacketDatapath>>,
) -> io::Result<Started> {
    let (mut workers, mut all_ready) = (Vec::new(), Vec::new());
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let sockmap = kernel.sockmap.as_ref().ok().map(Sockmap::handle).transpose()?;
        let inputs = WorkerInputs { inbox, sockmap, packet: packet.cloned(), host: kernel.host() };
        let (tell, ready) = oneshot::channel();
        workers.push(front::start_worker(index, Arc::clone(hub), inputs, tell)?);
        all_ready.push(ready);
    }
    Ok((workers, all_ready))
}

/// For the log, where a number should be one.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn announce(hub: &Hub) {
    let config = hub.config.current();
    for listener in &config.listeners {
        for address in &listener.addresses {
            tracing::info!(listener = %listener.name, %address, "listening");
        }
    }
    if let Some(http) = config.admin.http {
        tracing::info!("metrics and status on http://{http}/");
    }
}

#[cfg(test)]
mod tests;
