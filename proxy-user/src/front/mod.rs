//! From the listening socket to an established pair: one worker for each core, each with a runtime of its own, so that
//! a connection stays where the kernel put it.

mod accept;
mod back;
mod conn;
mod connect;
mod exchange;
mod own_addresses;
mod peek;
mod refuse;
mod resolver;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use proxy_common::plan::Host;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use self::accept::Desk;
use self::exchange::Door;
pub(crate) use self::exchange::Exchange;
pub(crate) use self::own_addresses::follow_own_addresses;
pub(crate) use self::resolver::start as start_resolver;
use crate::datapath::packet::{Homes, PacketDatapath};
use crate::datapath::{Carriers, SockmapHandle};
use crate::hub::snapshot::Listener;
use crate::hub::{Hub, Phase, or_stop};

/// One listening socket and the listener of the configuration that it belongs to.
pub(crate) struct Bound {
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: TcpListener,
}

/// The ways by which connections come to a worker.
pub(crate) struct Entrance {
    pub(crate) sockets: Vec<Bound>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) door: Door,
}

/// What the kernel does for the flows of a worker.
pub(crate) struct Means {
    pub(crate) sockmap: Option<SockmapHandle>,
    pub(crate) packet: Option<Arc<PacketDatapath>>,
    pub(crate) homes: Arc<Homes>,
    pub(crate) host: Host,
}

/// Starts worker number `index`. `ready` is told once all is open that it has open all the time. It returns when the phase is [`Phase::Stopped`]; if it fails before, it brings that
/// phase about.
pub(crate) fn start_worker(
    index: usize,
    hub: Arc<Hub>,
    entrance: Entrance,
    by: Means,
    ready: oneshot::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _gone = Gone(Arc::clone(&hub));
        let result = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let result = runtime.block_on(work(index, hub, entrance, by, ready));
            // Drops the flows that are left, whose sockets are armed to reset.
            runtime.shutdown_background();
            result
        });
        if let Err(error) = result {
            tracing::error!(worker = index, %error, "worker failed");
        }
    })
}

/// A daemon without one of its workers would let a part of the connections hang: it stops instead, also on a panic.
struct Gone(Arc<Hub>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.phases.advance(Phase::Stopped);
    }
}

/// What the log says of it if it fails.
const TAKING_IN: &str = "passing connections between workers";

async fn work(
    index: usize,
    hub: Arc<Hub>,
    Entrance { sockets, exchange, door }: Entrance,
    by: Means,
    ready: oneshot::Sender<()>,
) -> io::Result<()> {
    // Held for as long as the worker: without it flows would be taken for not coming back any more.
    let homes = by.homes;
    let home = homes.home();
    let carriers = Arc::new(Carriers::new(Arc::clone(&hub), by.sockmap, by.packet, by.host)?);
    let desk = Arc::new(Desk { worker: index, exchange, carriers });
    tokio::spawn(or_stop(Arc::clone(&hub), TAKING_IN, accept::welcome(door, Arc::clone(&desk))));
    tokio::spawn(or_stop(Arc::clone(&hub), TAKING_IN, back::welcome(home, Arc::clone(&desk))));
    let _ = ready.send(());
    hub.connection_limit.opened().await;
    for Bound { listener, socket } in sockets {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let accepting = accept::run(socket, listener, Arc::clone(&desk));
        tokio::spawn(or_stop(Arc::clone(&hub), "accepting connections", accepting));
    }
    hub.phases.reached(Phase::Stopped).await;
    Ok(())
}
