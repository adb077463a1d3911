//! Work that may take long, in a thread of its own, one at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::sync::oneshot;

/// Does one thing at a time.
#[derive(Default)]
pub(super) struct Apart(Arc<AtomicBool>);

/// Why there is no result.
#[derive(Debug)]
pub(super) enum NotDone {
    /// An earlier one is not done.
    Busy,
    NoThread(io::Error),
    /// The log says more.
    Panicked,
}

impl Apart {
    /// Does `work` in a thread with this name.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        if self.0.swap(true, Ordering::AcqRel) {
            return Err(NotDone::Busy);
        }
        // Dropped with the thread, whatever becomes of it, or with its closure if there is none.
        let busy = Busy(Arc::clone(&self.0));
        let (answer, done) = oneshot::channel();
        let work = move || {
            let result = work();
            drop(busy);
            // Nobody waits any more if the request was given up.
            let _ = answer.send(result);
        };
        thread::Builder::new().name(name.to_owned()).spawn(work).map_err(NotDone::NoThread)?;
        done.await.map_err(|_| NotDone::Panicked)
    }
}

struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_one_is_done_after_a_panic() {
        let apart = Apart::default();
        let failed = apart.run("test", || panic!("a defect")).await;
        assert!(matches!(failed, Err::<(), _>(NotDone::Panicked)));
        assert_eq!(apart.run("test", || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn there_is_one_at_a_time() {
        let apart = Apart::default();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let mut first = std::pin::pin!(apart.run("test", move || wait.recv()));
        assert!(
            std::future::poll_fn(|context| std::task::Poll::Ready(first.as_mut().poll(context).is_pending()))
                .await
        );
        assert!(matches!(apart.run("test", || 7).await, Err(NotDone::Busy)));
        drop(go);
        assert!(first.await.unwrap().is_err());
        assert_eq!(apart.run("test", || 7).await.unwrap(), 7);
    }
}
