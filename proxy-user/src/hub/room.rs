//! Room for connections: descriptors are kept back for the admin endpoint, so that whoever opens many connections cannot
//! take the last one.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::complaint::Complaint;

/// Descriptors that a connection may need: its own and that of its server.
const PER_CONNECTION: u64 = 2;
/// Pipes that a worker may have lent to its flows at a time.
pub(crate) const PIPES: usize = 32;
/// What a worker opens for itself: its runtime, its set of spliced sockets, its handles on maps, both ends of its pipes.
const PER_WORKER: u64 = 10 + 2 * PIPES as u64;
/// For name servers, and what the libraries open for a moment.
const KEPT_BACK: u64 = 32;
/// Connections to each of the two listeners of the admin endpoint: one in so many descriptors, within bounds.
const ADMIN_SHARE: u64 = 32;
const ADMIN: RangeInclusive<u64> = 4..=64;
/// Those, and one that is refused, for both listeners.
const fn for_admin(connections: u64) -> u64 {
    2 * (connections + 1)
}

/// Accepting goes on when one connection in so many has gone, or there would be a pause for each.
const SLACK: u64 = 16;

/// How many connections there may be at a time, and whether so many are there.
pub(crate) struct Room {
    limit: u64,
    admin: u64,
    open: AtomicU64,
    full: watch::Sender<bool>,
    pub(crate) complaint: Complaint,
}

impl Room {
    /// For a process that may open `files`, has opened `used` and is about to start `workers`. None: no limit.
    pub(crate) fn for_files(files: Option<u64>, used: u64, workers: u64) -> Self {
        let admin = (files.unwrap_or(u64::MAX) / ADMIN_SHARE).clamp(*ADMIN.start(), *ADMIN.end());
        let limit = files.map_or(u64::MAX, |files| {
            let others = used + workers * PER_WORKER + for_admin(admin) + KEPT_BACK;
            files.saturating_sub(others) / PER_CONNECTION
        });
        Self {
            limit: limit.max(1),
            admin,
            open: AtomicU64::new(0),
            full: watch::Sender::new(false),
            complaint: Complaint::default(),
        }
    }

    /// Most connections at a time.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Most connections at a time to each listener of the admin endpoint.
    pub(crate) fn admin(&self) -> usize {
        usize::try_from(self.admin).unwrap_or(usize::MAX)
    }

    /// Whether new connections have to wait.
    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Returns once [`Self::is_full`] is `full`.
    pub(crate) async fn becomes(&self, full: bool) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.full.subscribe().wait_for(|now| *now == full).await;
    }

    /// A connection takes its place until the returned value is dropped.
    pub(crate) fn take(&self) -> Place<'_> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open >= self.limit {
            self.update();
        }
        Place(self)
    }

    /// Decided under the lock of `full`, where the last to decide sees the latest count.
    fn update(&self) {
        self.full.send_if_modified(|full| {
            let open = self.open.load(Ordering::Relaxed);
            let now = open >= self.limit || (*full && open > self.limit - (self.limit / SLACK).max(1));
            std::mem::replace(full, now) != now
        });
    }
}

/// See [`Room::take`].
pub(crate) struct Place<'a>(&'a Room);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if self.0.is_full() {
            self.0.update();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_endpoint_has_a_share_within_bounds() {
        let admin = |files| Room::for_files(files, 20, 2).admin();
        assert_eq!([Some(16), Some(512), Some(1 << 20), None].map(admin), [4, 16, 64, 64]);
    }

    #[test]
    fn it_is_full_at_the_limit_and_until_there_is_some_slack() {
        let room = Room::for_files(Some(20 + PER_WORKER + for_admin(7) + KEPT_BACK + 2 * 32 + 1), 20, 1);
        assert_eq!(room.admin(), 7);
        assert_eq!(room.limit(), 32);
        let mut places: Vec<_> = (0..31).map(|_| room.take()).collect();
        assert!(!room.is_full());
        places.push(room.take());
        assert!(room.is_full());
        places.pop();
        assert!(room.is_full(), "31 of 32");
        places.pop();
        assert!(!room.is_full(), "30 of 32");
        places.extend([room.take(), room.take()]);
        assert!(room.is_full());
    }

    #[test]
    fn a_limit_too_small_for_anything_still_lets_one_in() {
        let room = Room::for_files(Some(64), 20, 4);
        let place = room.take();
        assert!(room.is_full());
        drop(place);
        assert!(!room.is_full());
        assert!(!Room::for_files(None, 20, 4).is_full());
    }

    #[test]
    fn complaints_are_rare() {
        let room = Room::for_files(Some(64), 20, 4);
        assert!(room.complaint.is_due());
        assert!(!room.complaint.is_due());
    }
}
