//! The upkeep thread: what connections depend on, and what nothing else of the daemon may hold up. It reads the events of
//! the BPF programs, tells the kernel that the daemon lives, keeps the budget of memory, and looks after offloaded
//! connections.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::hub::{Hub, Phase, or_stop};

/// The thread and its runtime. Dropping it ends both.
pub(super) struct Upkeep {
    hub: Arc<Hub>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(hub: Arc<Hub>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
            // A question to the kernel that is under way is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { hub, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a task that may end.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Runs what connections depend on. Without it they would hang: if it fails, the daemon stops.
    pub(super) fn spawn_essential(
        &self,
        what: &'static str,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        let hub = Arc::clone(&self.hub);
        self.runtime.spawn(async move {
            if let Err(error) = or_stop(Arc::clone(&hub), what, task).await {
                tracing::error!(%error, "{what} have failed");
                hub.phases.advance(Phase::Stopped);
            }
        });
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
