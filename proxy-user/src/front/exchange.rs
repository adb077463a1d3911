//! New connections change workers where the kernel has spread them unevenly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy_common::balance;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::accept::Accepted;
use crate::hub::{Permit, SourcePermit};

/// Connections that may be on their way to one worker. The next ones stay where they are.
const ON_THE_WAY: usize = 64;

/// A connection that another worker has accepted.
pub(super) struct Newcomer {
    pub(super) stream: std::net::TcpStream,
    pub(super) client: SocketAddr,
    pub(super) accepted: Accepted,
    pub(super) held: Held,
}

/// What a connection counts for, from before it is accepted until its sockets are closed.
pub(super) struct Held {
    pub(super) seat: Seat,
    pub(super) source_permit: Option<SourcePermit>,
    /// Of all connections.
    pub(super) permit: Permit,
}

/// What each worker has, and the way to it.
pub(crate) struct Exchange(Vec<Worker>);

struct Worker {
    connections: AtomicUsize,
    door: Sender<Newcomer>,
}

/// Where a worker takes in what others have accepted.
pub(crate) struct Door(pub(super) Receiver<Newcomer>);

impl Exchange {
    /// For so many workers, and a door for each.
    pub(crate) fn new(workers: usize) -> (Arc<Self>, Vec<Door>) {
        let (workers, doors) = (0..workers)
            .map(|_| {
                let (door, receiver) = channel(ON_THE_WAY);
                (Worker { connections: AtomicUsize::new(0), door }, Door(receiver))
            })
            .unzip();
        (Arc::new(Self(workers)), doors)
    }

    /// A seat for a connection that worker `own` has accepted, there or at another worker.
    pub(super) fn seat(self: &Arc<Self>, own: usize) -> Seat {
        let loads = self.0.iter().map(|worker| worker.connections.load(Ordering::Relaxed));
        Seat::take(Arc::clone(self), balance::worker(own, loads))
    }

    /// Sends a connection to the worker that it has a seat at. Err: no room on the way.
    pub(super) fn send(&self, newcomer: Newcomer) -> Result<(), Box<Newcomer>> {
        let Some(worker) = self.0.get(newcomer.held.seat.worker) else { return Err(Box::new(newcomer)) };
        worker.door.try_send(newcomer).map_err(|error| Box::new(error.into_inner()))
    }
}

/// A connection counts for its worker as long as this lives.
pub(super) struct Seat {
    exchange: Arc<Exchange>,
    pub(super) worker: usize,
}

impl Seat {
    fn take(exchange: Arc<Exchange>, worker: usize) -> Self {
        if let Some(worker) = exchange.0.get(worker) {
            worker.connections.fetch_add(1, Ordering::Relaxed);
        }
        Self { exchange, worker }
    }

    /// The same at another worker.
    pub(super) fn at(&self, worker: usize) -> Self {
        Self::take(Arc::clone(&self.exchange), worker)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(worker) = self.exchange.0.get(self.worker) {
            worker.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
