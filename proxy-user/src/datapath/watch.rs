//! News of the sockets that the kernel carries: one set for each worker, itself one socket-like thing in the worker's
//! runtime.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use crate::hub::{Hub, Phase, or_stop};
use crate::sys::{self, Poller};

/// Watches sockets by the id of their flow.
#[derive(Clone)]
pub(super) struct Watch(Arc<AsyncFd<Poller>>);

impl Watch {
    /// Starts to pass news on, in the current runtime.
    pub(super) fn start(hub: &Arc<Hub>) -> io::Result<Self> {
        let watch = Self(Arc::new(sys::readable(Poller::new()?)?));
        let (running, hub) = (watch.clone(), Arc::clone(hub));
        tokio::spawn(async move {
            let news = or_stop(Arc::clone(&hub), "watching spliced sockets", running.run(&hub));
            if let Err(error) = news.await {
                // Without news no flow of this worker would ever end.
                tracing::error!(%error, "the watch over spliced sockets has failed");
                hub.phases.advance(Phase::Stopped);
            }
        });
        Ok(watch)
    }

    /// Rings the flow `id` on news of `socket`, until the socket is closed.
    pub(super) fn add(&self, socket: &impl AsFd, id: u64) -> io::Result<()> {
        self.0.get_ref().add(socket, id)
    }

    /// Rings the flow `id` once `socket`, which is watched already, has room for more to be written.
    pub(super) fn again(&self, socket: &impl AsFd, id: u64) -> io::Result<()> {
        self.0.get_ref().again(socket, id)
    }

    async fn run(self, hub: &Hub) -> io::Result<()> {
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
