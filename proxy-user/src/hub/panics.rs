//! What happens after a panic, which is a defect of the daemon, and which the log has told of: a thread or a task that others need must
//! not be missing without anybody noticing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::{Hub, Phase};

/// From a panic to the next try: it may come again and again.
const PAUSE: Duration = Duration::from_secs(1);

/// For a thread: runs `work` until it returns, again after a panic. What `work` refers to must stand a panic at any point.
pub(crate) fn run_again(what: &str, work: impl FnMut()) {
    run_again_after(PAUSE, what, work);
}

fn run_again_after(pause: Duration, what: &str, mut work: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
        tracing::error!("{what}: failed by a defect of this program, and begins again; please report it");
        std::thread::sleep(pause);
    }
}

/// For a task: runs the future that `begin` makes to its end, another one after a panic. Must run inside a runtime.
pub(crate) async fn keep_running<F>(what: &str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    keep_running_after(PAUSE, what, begin).await;
}

async fn keep_running_after<F>(pause: Duration, what: &str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while tokio::spawn(begin()).await.is_err_and(|error| error.is_panic()) {
        tracing::error!("{what}: failed by a defect of this program, and begins again; please report it");
        tokio::time::sleep(pause).await;
    }
}

/// For a task that connections would wait for in vain: a panic stops the daemon, so that it is started again.
pub(crate) async fn or_stop<T>(hub: Arc<Hub>, what: &'static str, task: impl Future<Output = T>) -> T {
    let _guard = OnPanic(move || {
        tracing::error!("{what}: failed by a defect of this program, and the daemon stops; please report it");
        hub.phases.advance(Phase::Stopped);
    });
    task.await
}

/// Calls it if a panic drops it. It is also dropped at the end of the task, and with the runtime.
struct OnPanic<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_thread_goes_on_after_a_panic() {
        let mut tries = 0;
        run_again_after(Duration::ZERO, "a test", || {
            tries += 1;
            assert!(tries > 2, "once, and once more");
        });
        assert_eq!(tries, 3);
    }

    #[tokio::test]
    async fn a_task_goes_on_after_a_panic() {
        let tries = Arc::new(AtomicU32::new(0));
        let begin = || {
            let tries = Arc::clone(&tries);
            async move { assert!(tries.fetch_add(1, Ordering::Relaxed) > 1, "once, and once more") }
        };
        keep_running_after(Duration::ZERO, "a test", begin).await;
        assert_eq!(tries.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_panic_is_noticed_and_an_end_is_none() {
        for panics in [false, true] {
            let noticed = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&noticed);
            let task = async move {
                let _guard = OnPanic(move || {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                tokio::task::yield_now().await;
                assert!(!panics, "a defect");
            };
            assert_eq!(tokio::spawn(task).await.is_err(), panics);
            assert_eq!(noticed.load(Ordering::Relaxed), u32::from(panics));
        }
    }
}
