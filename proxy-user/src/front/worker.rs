//! One worker: a thread with a runtime of its own, which carries out the commands of its mailbox.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use proxy_common::plan::Host;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::{accept, conn};
use crate::datapath::packet::PacketDatapath;
use crate::datapath::{Carriers, Outcome, SockmapHandle};
use crate::hub::{Bound, Command, Hub, Inbox, ListenerKey, Permit, Phase, Restored, or_stop};

/// What a worker gets at its start.
pub(crate) struct WorkerInputs {
    pub(crate) inbox: Inbox,
    pub(crate) sockmap: Option<SockmapHandle>,
    pub(crate) packet: Option<Arc<PacketDatapath>>,
    pub(crate) host: Host,
}

/// Starts worker number `index`. `ready` is told once it has opened what it has open all the time. The worker returns
/// when the phase is [`Phase::Stopped`]; if it fails before, it brings that phase about.
pub(crate) fn start(
    index: usize,
    hub: Arc<Hub>,
    inputs: WorkerInputs,
    ready: oneshot::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _gone = Gone(Arc::clone(&hub));
        let result = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let result = runtime.block_on(run(index, hub, inputs, ready));
            // Drops the connections that are left, whose sockets are armed to reset.
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

async fn run(
    index: usize,
    hub: Arc<Hub>,
    WorkerInputs { mut inbox, sockmap, packet, host }: WorkerInputs,
    ready: oneshot::Sender<()>,
) -> io::Result<()> {
    let carriers = Arc::new(Carriers::new(Arc::clone(&hub), sockmap, packet, host)?);
    let mut worker = Worker { index, carriers, sockets: Vec::new() };
    let _ = ready.send(());
    let mut stopped = std::pin::pin!(hub.phases.reached(Phase::Stopped));
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return Ok(()),
            // None: nobody is left who could send one.
            Some(command) = inbox.next() => worker.execute(command)?,
        }
    }
}

struct Worker {
    index: usize,
    carriers: Arc<Carriers>,
    /// Dropping one has its socket closed, once what is queued there is served.
    sockets: Vec<(ListenerKey, oneshot::Sender<()>)>,
}

impl Worker {
    fn execute(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Listen(bound) => self.listen(bound)?,
            Command::Unlisten(key) => self.sockets.retain(|(open, _)| *open != key),
            Command::Serve(newcomer) => conn::start_newcomer(newcomer, &self.carriers),
            Command::Restore(restored) => self.restore(restored),
            Command::Drain => self.sockets.clear(),
        }
        Ok(())
    }

    fn listen(&mut self, Bound { key, listener, socket }: Bound) -> io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        let (close, closed) = oneshot::channel();
        self.sockets.push((key, close));
        let accepting = accept::run(socket, listener, (self.index, Arc::clone(&self.carriers)), closed);
        tokio::spawn(or_stop(Arc::clone(&self.carriers.hub), "accepting connections", accepting));
        Ok(())
    }

    fn restore(&self, restored: Restored) {
        let carriers = Arc::clone(&self.carriers);
        let seat = carriers.hub.workers.seat(self.index).at(self.index);
        tokio::spawn(async move {
            let permit = go_on(restored, &carriers).await;
            drop((seat, permit));
        });
    }
}

/// Goes on with a connection that has sockets again. Gives its permit back once it is over.
async fn go_on(Restored { flow, mut record, sockets, permit }: Restored, carriers: &Carriers) -> Permit {
    let hub = &carriers.hub;
    let entry = hub.flows.enter_again(flow);
    match carriers.go_on(&entry.flow, sockets).await {
        Outcome::Ended(carried) => record.settle(hub, &entry.flow, carried.end, carried.bytes),
        Outcome::Left(departed) => departed.park(hub, entry, record),
    }
    permit
}
