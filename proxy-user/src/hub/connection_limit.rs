//! The limit on connections, by descriptors: whoever opens many connections must not be able to take the last one, which the admin
//! endpoint, name servers and the connections that are there already need.
//!
//! A connection has its place before it is accepted, and keeps it until its sockets are closed. So has a flow that gets sockets again.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::log_throttle::LogThrottle;

/// Descriptors that a connection may need: its own and that of its server.
const PER_CONNECTION: u64 = 2;
/// What a worker opens for a moment: to ask for routes, to forget tracked connections, to send a packet.
const PER_WORKER: u64 = 4;
/// For name servers, programs on interfaces to come, and what the libraries open for a moment.
const KEPT_BACK: u64 = 32;
/// Connections to each of the two listeners of the admin endpoint: one in so many descriptors, within bounds.
const ADMIN_SHARE: u64 = 32;
const ADMIN: RangeInclusive<u64> = 4..=64;
/// Pipes that all workers together may have lent to their flows at a time: one in so many descriptors. A pipe has two.
const PIPE_SHARE: u64 = 32;
/// The most that one worker may.
const PIPES: u64 = 32;

/// Accepting goes on when one connection in so many has gone, or there would be a pause for each.
const SLACK: u64 = 16;

/// How many connections there may be at a time, and whether so many are there.
pub(crate) struct ConnectionLimit {
    /// Descriptors that this process may open. None: any number.
    files: Option<u64>,
    workers: u64,
    /// Known once all that the daemon has open all the time is open. Until then nothing is accepted.
    limit: OnceLock<u64>,
    /// Places that are taken, also by those who only look for a connection.
    open: AtomicU64,
    /// Those that a connection has.
    kept: AtomicU64,
    full: watch::Sender<bool>,
    /// Rung when a place is given back.
    freed: Notify,
    pub(crate) throttle: LogThrottle,
}

impl ConnectionLimit {
    /// For a process that may open `files` and has so many workers.
    pub(crate) fn new(files: Option<u64>, workers: u64) -> Self {
        Self {
            files,
            workers,
            limit: OnceLock::new(),
            open: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            freed: Notify::new(),
            full: watch::Sender::new(true),
            throttle: LogThrottle::default(),
        }
    }

    /// Lets connections in, beside `used` descriptors that are open already.
    pub(crate) fn open(&self, used: u64) {
        let kept = used
            + self.workers * (PER_WORKER + 2 * self.pipes_each())
            + 2 * (self.admin_each() + 1)
            + KEPT_BACK;
        let limit = self.files.map_or(u64::MAX, |files| files.saturating_sub(kept) / PER_CONNECTION);
        let _ = self.limit.set(limit.max(1));
        self.update();
    }

    /// Returns once connections are let in.
    pub(crate) async fn opened(&self) {
        let _ = self.full.subscribe().wait_for(|_| self.limit.get().is_some()).await;
    }

    /// Most connections at a time. 0: not known yet.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.get().copied().unwrap_or(0)
    }

    /// Most connections at a time to each listener of the admin endpoint.
    pub(crate) fn admin(&self) -> usize {
        usize::try_from(self.admin_each()).unwrap_or(usize::MAX)
    }

    /// Pipes that a worker may lend to its flows at a time.
    pub(crate) fn pipes(&self) -> usize {
        usize::try_from(self.pipes_each()).unwrap_or(usize::MAX)
    }

    fn admin_each(&self) -> u64 {
        (self.files.unwrap_or(u64::MAX) / ADMIN_SHARE).clamp(*ADMIN.start(), *ADMIN.end())
    }

    fn pipes_each(&self) -> u64 {
        (self.files.unwrap_or(u64::MAX) / PIPE_SHARE / self.workers.max(1)).min(PIPES)
    }

    /// Whether new connections have to wait.
    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Returns once there is room.
    pub(crate) async fn has_room(&self) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.full.subscribe().wait_for(|full| !full).await;
    }

    /// A place for a connection, until the returned value is dropped. None: there is none. Then [`ConnectionLimit::freed`] waits.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        if self.is_full() {
            return None;
        }
        let limit = self.limit();
        let take = |open: u64| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Permit { limit: Arc::clone(self), is_kept: false })
    }

    /// Returns once another try to take a place is worth while. There may be none for a moment though connections have not taken
    /// all: whoever looks whether somebody waits to be accepted takes one before.
    pub(crate) async fn freed(&self) {
        self.has_room().await;
        let mut freed = std::pin::pin!(self.freed.notified());
        // From here on nothing is missed.
        freed.as_mut().enable();
        if !self.is_full() && self.open.load(Ordering::SeqCst) >= self.limit() {
            freed.await;
        }
    }

    /// A place as soon as there is one.
    pub(crate) async fn wait(self: &Arc<Self>) -> Permit {
        loop {
            if let Some(permit) = self.take() {
                return permit;
            }
            self.freed().await;
        }
    }

    /// Decided under the lock of `full`, where the last to decide sees the latest count.
    fn update(&self) {
        let limit = self.limit();
        self.full.send_if_modified(|full| {
            let kept = self.kept.load(Ordering::SeqCst);
            let now = kept >= limit || (*full && kept > limit - (limit / SLACK).max(1));
            std::mem::replace(full, now) != now
        });
    }
}

/// See [`ConnectionLimit::take`].
pub(crate) struct Permit {
    limit: Arc<ConnectionLimit>,
    is_kept: bool,
}

impl Permit {
    /// A connection has it: if it was the last one, the others wait. Not said by who only holds it while looking for a connection.
    #[must_use]
    pub(crate) fn kept(mut self) -> Self {
        self.is_kept = true;
        if self.limit.kept.fetch_add(1, Ordering::SeqCst) + 1 >= self.limit.limit() {
            self.limit.update();
        }
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_kept {
            self.limit.kept.fetch_sub(1, Ordering::SeqCst);
        }
        let open = self.limit.open.fetch_sub(1, Ordering::SeqCst);
        if self.limit.is_full() {
            self.limit.update();
        }
        // Nobody waits as long as there are more.
        if open >= self.limit.limit() {
            self.limit.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With room for so many connections, beside 20 descriptors that are open, and one that does not make a pair.
    fn with_room_for(count: u64) -> Arc<ConnectionLimit> {
        let kept = |files| {
            ConnectionLimit::new(Some(files), 1).admin_each() * 2
                + ConnectionLimit::new(Some(files), 1).pipes_each() * 2
        };
        let fits = |files: &u64| 20 + PER_WORKER + 2 + KEPT_BACK + kept(*files) + 2 * count < *files;
        let limit = Arc::new(ConnectionLimit::new((1..10_000).find(fits), 1));
        limit.open(20);
        assert_eq!(limit.limit(), count);
        limit
    }

    #[test]
    fn it_is_full_at_the_limit_and_until_there_is_some_slack() {
        let limit = with_room_for(32);
        let mut places: Vec<_> = (0..31).map(|_| limit.take().unwrap().kept()).collect();
        assert!(!limit.is_full());
        let last = limit.take().unwrap();
        assert!(!limit.is_full(), "nobody has come for it yet");
        places.push(last.kept());
        assert!(limit.is_full() && limit.take().is_none());
        places.pop();
        assert!(limit.is_full() && limit.take().is_none(), "31 of 32");
        places.pop();
        assert!(!limit.is_full(), "30 of 32");
        places.extend([limit.take().unwrap().kept(), limit.take().unwrap().kept()]);
        assert!(limit.take().is_none() && limit.is_full());
    }

    #[test]
    fn there_are_never_more_than_the_limit_whoever_takes_them() {
        let limit = with_room_for(8);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _places: Vec<_> = (0..4).filter_map(|_| limit.take().map(Permit::kept)).collect();
                        most.fetch_max(limit.open.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 8);
        assert!(!limit.is_full() && limit.take().is_some(), "all have been given back");
    }

    /// Each worker takes a place before it looks whether somebody waits to be accepted.
    #[tokio::test]
    async fn a_place_that_is_taken_to_look_for_a_connection_does_not_make_it_full() {
        let limit = with_room_for(32);
        let mut places: Vec<_> = (0..30).map(|_| limit.take().unwrap().kept()).collect();
        let looking = [limit.take().unwrap(), limit.take().unwrap()];
        assert!(limit.take().is_none() && !limit.is_full());
        let waiting = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move { limit.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let [found, nobody] = looking;
        places.push(found.kept());
        drop(nobody);
        assert!(!limit.is_full(), "31 of 32");
        let last = waiting.await.unwrap().kept();
        assert!(limit.is_full() && limit.take().is_none());
        drop((places, last));
        assert!(!limit.is_full() && limit.kept.load(Ordering::SeqCst) == 0);
    }

    #[tokio::test]
    async fn nobody_is_let_in_before_it_is_known_for_how_many_there_is_room() {
        let limit = Arc::new(ConnectionLimit::new(Some(64), 4));
        assert!(limit.is_full() && limit.take().is_none());
        let waiting = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move {
                limit.opened().await;
                limit.wait().await
            }
        });
        tokio::task::yield_now().await;
        limit.open(20);
        let permit = waiting.await.unwrap();
        assert_eq!(limit.limit(), 1, "too few for anything still lets one in");
        assert!(limit.take().is_none());
        drop(permit);
        assert!(limit.take().is_some());
    }

    #[test]
    fn shares_are_within_bounds() {
        let shares = |files, workers| {
            let limit = ConnectionLimit::new(files, workers);
            (limit.admin(), limit.pipes())
        };
        assert_eq!(shares(Some(16), 2), (4, 0));
        assert_eq!(shares(Some(512), 2), (16, 8));
        assert_eq!(shares(Some(1024), 128), (32, 0));
        assert_eq!(shares(Some(1 << 20), 8), (64, 32));
        assert_eq!(shares(None, 8), (64, 32));
        let limit = Arc::new(ConnectionLimit::new(None, 4));
        limit.open(20);
        assert!(limit.take().is_some() && !limit.is_full());
    }

    #[test]
    fn complaints_are_rare() {
        let limit = ConnectionLimit::new(Some(64), 4);
        assert!(limit.throttle.is_due());
        assert!(!limit.throttle.is_due());
    }
}
