//! Waiting for packets that are on their way through the kernel, for many flows at a time: one thread waits for all. The flows of a
//! worker ask together, since to wake the thread, and the worker, takes system calls.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use tokio::sync::{Notify, oneshot};

use crate::hub::run_again;
use crate::sys;

/// An error is nobody's own: all get its kind.
type Result = std::result::Result<(), io::ErrorKind>;

type Waiting = oneshot::Sender<Result>;

#[derive(Clone)]
pub(super) struct RcuBarrier(mpsc::Sender<Waiting>);

/// Flows of a worker that wait together.
#[derive(Default)]
struct Round {
    /// It has begun to wait: who asks now needs another one.
    begun: AtomicBool,
    result: OnceLock<Result>,
    bell: Notify,
}

thread_local! {
    /// The last one of this thread.
    static LAST: RefCell<Arc<Round>> = RefCell::new(Arc::new(Round { begun: true.into(), ..Round::default() }));
}

impl RcuBarrier {
    /// Err: the kernel does not offer it.
    pub(super) fn start() -> io::Result<Self> {
        sys::wait_for_packets()?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("rcu-barrier".to_owned()).spawn(move || {
            run_again("waiting for packets on their way", || run(&receiver));
        })?;
        Ok(Self(sender))
    }

    /// Returns when every packet that is on its way now has come to a socket, or to its end. Must run inside a runtime.
    pub(super) async fn wait(&self) -> io::Result<()> {
        let round = LAST.with_borrow_mut(|last| {
            if last.begun.load(Ordering::SeqCst) {
                *last = Arc::default();
                // A task of its own, since whoever came first may give up.
                tokio::spawn(self.clone().go_round(Arc::clone(last)));
            }
            Arc::clone(last)
        });
        let mut rung = std::pin::pin!(round.bell.notified());
        rung.as_mut().enable();
        if round.result.get().is_none() {
            rung.await;
        }
        round.result.get().copied().unwrap_or(Err(io::ErrorKind::BrokenPipe)).map_err(io::Error::from)
    }

    async fn go_round(self, round: Arc<Round>) {
        // Those who are about to ask in this turn of the worker come along.
        tokio::task::yield_now().await;
        round.begun.store(true, Ordering::SeqCst);
        let (sender, receiver) = oneshot::channel();
        let broken = Err(io::ErrorKind::BrokenPipe);
        let result = if self.0.send(sender).is_ok() { receiver.await.unwrap_or(broken) } else { broken };
        let _ = round.result.set(result);
        round.bell.notify_waiters();
    }
}

fn run(waiting: &mpsc::Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let result = sys::wait_for_packets().map_err(|error| error.kind());
        for one in all {
            // Whoever has given up does not mind.
            let _ = one.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_together_waits_together_and_nobody_for_who_gave_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let rcu = RcuBarrier::start().unwrap();
            let first = tokio::spawn({
                let rcu = rcu.clone();
                async move { rcu.wait().await }
            });
            let others: Vec<_> = (0..10)
                .map(|_| {
                    let rcu = rcu.clone();
                    tokio::spawn(async move { rcu.wait().await })
                })
                .collect();
            tokio::task::yield_now().await;
            first.abort();
            for other in others {
                other.await.unwrap().unwrap();
            }
            rcu.wait().await.unwrap();
        });
    }
}
