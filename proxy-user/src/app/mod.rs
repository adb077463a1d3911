//! The daemon from start to stop.

mod bind;

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy_common::plan::{Choice, Datapath};
use tokio::sync::oneshot;

use crate::control::admin::{self, Admin};
use crate::control::{Exit, Failure, Signals, events, guard, logs, paths};
use crate::datapath::packet::{self, Homes, PacketDatapath};
use crate::front::{self, Bound, Entrance, Exchange, Means};
use crate::hub::snapshot::{Server, Snapshot};
use crate::hub::{ConnectionLimit, Hub, Phase, keep_running, or_stop};
use crate::kernel::{Kernel, Packet, Unavailable};
use crate::{kernel, sys};
use bind::{bind, bind_exit};

/// From the order to close until flows that have not ended are dropped, which resets them.
const CLOSING: Duration = Duration::from_secs(3);

/// After the start, before offloaded connections of an earlier daemon are looked for that no upstream may have.
const LEFT: Duration = Duration::from_secs(10);

/// Runs until a signal ends it. `release`: no flow is to outlive the daemon.
pub(crate) fn run(mut snapshot: Snapshot, release: bool) -> Result<(), Failure> {
    if let Some(reason) = kernel::packet_caution().filter(|_| snapshot.forbid_auto_to_offload()) {
        tracing::warn!(%reason, "connections of upstreams with datapath = \"auto\" are not offloaded");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::System, format_args!("cannot start: {error}")))?;
    runtime.block_on(control(snapshot, release))
}

async fn control(snapshot: Snapshot, release: bool) -> Result<(), Failure> {
    paths::check(&snapshot)?;
    let files = open_files();
    let mut signals = Signals::new().map_err(|error| Failure::new(Exit::System, error))?;
    let sockets = bind(&snapshot)?;
    let endpoint = admin::open(&snapshot.admin).map_err(|error| {
        let code = error.downcast_ref::<io::Error>().map(io::Error::kind);
        Failure::new(bind_exit(code), error)
    })?;
    let hub = Arc::new(Hub::new(snapshot, ConnectionLimit::new(files, sockets.len() as u64)));
    // Before flows of an earlier daemon are found: it is to know where they come from.
    let guard = guard::start(&hub)?;
    let homes = Arc::new(Homes::default());
    let config = hub.config.current();
    let packet =
        config.wants_packet().then(|| PacketDatapath::open(&hub, &config.packet, Arc::clone(&homes)));
    if let Some(packet) = &packet {
        look_after(&hub, packet);
    }
    let kernel = Arc::new(probe(&hub, packet.as_ref()));
    let packet = packet.and_then(Result::ok);
    let left = look_for_left(&hub, &homes, &kernel);
    front::start_resolver(&hub)
        .map_err(|error| Failure::new(Exit::System, format_args!("cannot look up names: {error}")))?;
    front::follow_own_addresses(&hub);
    let (workers, ready) = start(&hub, sockets, &kernel, packet.as_ref(), &homes)
        .map_err(|error| Failure::new(Exit::System, format_args!("cannot start the workers: {error}")))?;
    let (all, parts) = (Arc::clone(&hub), Arc::clone(&kernel));
    tokio::spawn(async move {
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
    let failed = tokio::select! {
        () = signals.stop() => false,
        // A worker has gone, which it must not.
        () = hub.phases.reached(Phase::Stopped) => true,
    };
    let packet = packet.or_else(|| left.get().cloned());
    let released = packet.as_ref().filter(|_| release);
    stop(&hub, &mut signals, workers, released).await;
    if let Some(packet) = &packet {
        leave(&hub, packet, release);
    }
    if failed {
        return Err(Failure::new(Exit::System, "a worker has failed; the log says why"));
    }
    Ok(())
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

/// Must run inside the runtime: it starts to listen to what the BPF programs tell.
fn probe(hub: &Arc<Hub>, packet: Option<&Result<Arc<PacketDatapath>, Unavailable>>) -> Kernel {
    let mut probed = kernel::probe(logs::debug_enabled(), wants_local(&hub.config.current()));
    match &mut probed.sockmap {
        Ok(sockmap) => {
            tracing::info!(took_ms = millis(probed.took), "sockmap datapath passed its self-test");
            if let Some(reason) = probed.caution.as_ref().filter(|_| hub.config.current().has_auto()) {
                tracing::warn!(%reason, "connections of upstreams with datapath = \"auto\" are not spliced");
            }
            if let Some(ring) = sockmap.take_events() {
                tokio::spawn(essential(
                    "the BPF events",
                    Arc::clone(hub),
                    events::run(Arc::clone(hub), ring),
                ));
            }
            if let Some(log) = sockmap.take_log() {
                tokio::spawn(events::log(log));
            }
        }
        Err(reason) => tracing::warn!(%reason, "sockmap datapath unavailable: connections are not spliced"),
    }
    match &probed.local {
        Some(Ok(kernel::Local { noticed: None })) => tracing::info!("local datapath passed its self-test"),
        Some(Ok(kernel::Local { noticed: Some(noticed) })) => {
            tracing::info!(
                reason = noticed,
                "local datapath is used for upstreams with datapath = \"local\" only"
            );
        }
        Some(Err(reason)) => {
            let instead = if probed.sockmap.is_ok() { "spliced by sockmap" } else { "copied" };
            tracing::warn!(%reason, "local datapath unavailable: connections to servers on this host are {instead}");
        }
        None => {}
    }
    let packet = packet.map(packet_of);
    let left = OnceLock::new();
    let kernel::Probed { sockmap, caution, local, .. } = probed;
    let packet_caution =
        kernel::packet_caution().filter(|_| hub.config.current().packet.is_forbidden_to_auto);
    Kernel { sockmap, caution, local, packet, packet_caution, left }
}

fn packet_of(packet: &Result<Arc<PacketDatapath>, Unavailable>) -> Result<Arc<Packet>, Unavailable> {
    match packet {
        Ok(packet) => Ok(Arc::clone(&packet.packet)),
        Err(reason) => Err(reason.clone()),
    }
}

/// If no upstream may be offloaded to: looks for connections that an earlier daemon has left, some time after the start. Other daemons
/// that start at the same time have taken their own by then. Says where they are to be found.
fn look_for_left(
    hub: &Arc<Hub>,
    homes: &Arc<Homes>,
    kernel: &Arc<Kernel>,
) -> Arc<OnceLock<Arc<PacketDatapath>>> {
    let left = Arc::new(OnceLock::new());
    if !hub.config.current().wants_packet() {
        let (hub, homes, kernel) = (Arc::clone(hub), Arc::clone(homes), Arc::clone(kernel));
        tokio::spawn(open_later(hub, homes, kernel, Arc::clone(&left)));
    }
    left
}

async fn open_later(
    hub: Arc<Hub>,
    homes: Arc<Homes>,
    kernel: Arc<Kernel>,
    left: Arc<OnceLock<Arc<PacketDatapath>>>,
) {
    tokio::time::sleep(LEFT).await;
    let look = move || {
        if hub.phases.now() != Phase::Running {
            return;
        }
        let Some(packet) = packet::open_left(&hub, homes) else { return };
        look_after(&hub, &packet);
        let _ = kernel.left.set(packet_of(&packet));
        if let Ok(packet) = packet {
            let _ = left.set(packet);
        }
    };
    // With many connections it takes a while.
    if let Err(error) = tokio::task::spawn_blocking(look).await {
        tracing::error!(%error, "offloaded connections of an earlier snisplice cannot be looked for");
    }
}

/// Starts what the packet datapath needs all the time. Must run inside the runtime.
fn look_after(hub: &Arc<Hub>, packet: &Result<Arc<PacketDatapath>, Unavailable>) {
    let is_wanted = hub.config.current().wants_packet();
    match packet {
        Ok(packet) => {
            if is_wanted {
                tracing::info!("packet datapath is ready");
            }
            let (packet, hub) = (Arc::clone(packet), Arc::clone(hub));
            tokio::spawn(essential("signs of life", Arc::clone(&hub), Arc::clone(&packet).tend()));
            tokio::spawn(essential("attachments", Arc::clone(&hub), Arc::clone(&packet).stay_attached()));
            tokio::spawn(essential("routes", Arc::clone(&hub), Arc::clone(&packet).follow()));
            tokio::spawn(essential("flows without sockets", Arc::clone(&hub), packet.watch(hub)));
        }
        Err(reason) if is_wanted => {
            tracing::warn!(%reason, "packet datapath unavailable: connections keep their sockets");
        }
        Err(reason) => {
            tracing::warn!(%reason, "the offloaded connections of an earlier snisplice are not looked after");
        }
    }
}

/// What becomes of the flows that have no sockets.
fn leave(hub: &Hub, packet: &PacketDatapath, release: bool) {
    if release {
        packet.release(hub);
        if let Err(error) = packet.packet.withdraw() {
            tracing::warn!(%error, "what is pinned stays; `doctor --clean` removes it");
        }
        return;
    }
    let flows = packet.abandon(hub);
    if flows == 0 && !packet.packet.takes_new {
        // Nothing wants the programs any more.
        if let Err(error) = packet.packet.withdraw() {
            tracing::warn!(%error, "what is pinned stays; `doctor --clean` removes it");
        }
    }
    if flows > 0 {
        tracing::info!(
            flows,
            "flows without sockets go on, and wait for the next daemon; `run --release` ends them"
        );
    }
}

/// Whether a server may be on this host, and its upstream may be carried as such.
fn wants_local(snapshot: &Snapshot) -> bool {
    let here = |server: &Server| match server {
        Server::Address(address) => sys::is_own_address(address.ip()),
        Server::Name { .. } => true,
        // Reached over its link.
        Server::LinkLocal { .. } => false,
    };
    snapshot.upstreams.iter().any(|upstream| match upstream.datapath {
        Choice::Only(Datapath::Local) => true,
        Choice::Auto => upstream.servers().any(here),
        Choice::Only(_) => false,
    })
}

/// Runs what flows depend on: without it they would hang, so that the daemon stops.
async fn essential(what: &'static str, hub: Arc<Hub>, task: impl Future<Output = io::Result<()>>) {
    if let Err(error) = or_stop(Arc::clone(&hub), what, task).await {
        tracing::error!(%error, "{what} have failed");
        hub.phases.advance(Phase::Stopped);
    }
}

/// The workers, and what each says once it is ready.
type Workers = (Vec<JoinHandle<()>>, Vec<oneshot::Receiver<()>>);

fn start(
    hub: &Arc<Hub>,
    sockets: Vec<Vec<Bound>>,
    kernel: &Kernel,
    packet: Option<&Arc<PacketDatapath>>,
    homes: &Arc<Homes>,
) -> io::Result<Workers> {
    let (mut workers, mut all_ready) = (Vec::new(), Vec::new());
    let (exchange, doors) = Exchange::new(sockets.len());
    for (index, (sockets, door)) in sockets.into_iter().zip(doors).enumerate() {
        let entrance = Entrance { sockets, exchange: Arc::clone(&exchange), door };
        let sockmap = kernel.sockmap.as_ref().ok().map(kernel::Sockmap::handle).transpose()?;
        let by = Means { sockmap, packet: packet.cloned(), homes: Arc::clone(homes), host: kernel.host() };
        let (tell, ready) = oneshot::channel();
        workers.push(front::start_worker(index, Arc::clone(hub), entrance, by, tell)?);
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

/// Lets flows end, then ends them. Those without sockets only where they are `released`: else they outlive us. They get sockets
/// for that, so that they end as all others do.
async fn stop(
    hub: &Arc<Hub>,
    signals: &mut Signals,
    workers: Vec<JoinHandle<()>>,
    released: Option<&Arc<PacketDatapath>>,
) {
    let limit = hub.config.current().timeouts.drain;
    hub.phases.advance(Phase::Draining);
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
    hub.phases.advance(Phase::Stopped);
    for worker in workers {
        let _ = worker.join();
    }
    tracing::info!("stopped");
}
