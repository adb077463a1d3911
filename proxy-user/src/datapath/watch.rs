//! News of the sockets that the kernel carries: one set for each worker, itself one socket-like thing in the worker's
//! runtime.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use crate::hub::Hub;
use crate::sys::{self, Interest, Poller};

/// Watches sockets by the id of their flow.
#[derive(Clone)]
pub(crate) struct Watch(Arc<AsyncFd<Poller>>);

impl Watch {
    /// To be made inside the worker's runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let poller = sys::readable(Poller::new()?)?;
        Ok(Self(Arc::new(poller)))
    }

    /// Rings the flow `id` on news of `socket`, until the socket is closed.
    pub(super) fn add(&self, socket: &impl AsFd, id: u64) -> io::Result<()> {
        self.0.get_ref().add(socket, id, Interest::End)
    }

    /// Rings the flow also on bytes to read and room to write: userspace has become its carrier.
    pub(super) fn widen(&self, socket: &impl AsFd, id: u64) -> io::Result<()> {
        self.0.get_ref().modify(socket, id, Interest::All)
    }

    /// Passes news on to the flows, as long as the worker runs.
    pub(crate) async fn run(self, hub: Arc<Hub>) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let more = ready.get_inner().take(|id| hub.flows.wake(id))?;
            if !more {
                ready.clear_ready();
            }
            // Flows run between two batches, however many sockets have news.
            tokio::task::yield_now().await;
        }
    }
}
