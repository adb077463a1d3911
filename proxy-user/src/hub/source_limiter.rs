//! How many connections one source may have at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use ipnet::IpNet;

use super::log_throttle::LogThrottle;
use super::snapshot::Snapshot;
use super::sources::source_of;

/// Counts the connections of each source, from accept to close. A source that has none takes no memory.
#[derive(Debug)]
pub(crate) struct SourceLimiter {
    limit: u32,
    bits: [u8; 2],
    /// Shared with the limiter after this one, if both mean the same by a source.
    open: Arc<Mutex<HashMap<IpNet, u32>>>,
    pub(crate) throttle: LogThrottle,
}

/// A source has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AtLimit(pub(crate) IpNet);

/// The limiter that new connections ask.
pub(crate) struct SourceLimits {
    /// None: a source may have any number of connections.
    current: ArcSwapOption<SourceLimiter>,
}

impl SourceLimits {
    pub(super) fn new(config: &Snapshot) -> Self {
        let first = SourceLimiter::new(config.limits.source_connections, config.source_bits());
        Self { current: ArcSwapOption::new(first) }
    }

    /// None: a source may have any number of connections.
    pub(crate) fn current(&self) -> Option<Arc<SourceLimiter>> {
        self.current.load_full()
    }

    /// Goes by another configuration. Connections that are open count on, unless a source is something else now.
    pub(crate) fn follow(&self, config: &Snapshot) {
        let next = SourceLimiter::new(config.limits.source_connections, config.source_bits());
        let next = next.map(|next| match self.current() {
            Some(last) if last.bits == next.bits => Arc::new(SourceLimiter {
                limit: next.limit,
                open: Arc::clone(&last.open),
                ..SourceLimiter::of(next.bits)
            }),
            _ => next,
        });
        self.current.store(next);
    }
}

impl SourceLimiter {
    fn of(bits: [u8; 2]) -> Self {
        Self { limit: 0, bits, open: Arc::default(), throttle: LogThrottle::default() }
    }

    /// `limit` for each source; `bits` of IPv4 and of IPv6 addresses make one. None: any number.
    pub(crate) fn new(limit: u32, bits: [u8; 2]) -> Option<Arc<Self>> {
        (limit > 0).then(|| Arc::new(Self { limit, ..Self::of(bits) }))
    }

    /// A connection takes its place until the returned value is dropped.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<SourcePermit, AtLimit> {
        let source = source_of(self.bits, client);
        let mut open = self.open();
        let count = open.entry(source).or_default();
        if *count >= self.limit {
            return Err(AtLimit(source));
        }
        *count += 1;
        drop(open);
        Ok(SourcePermit { source_limiter: Arc::clone(self), source })
    }

    /// The same for a connection that is there already, whatever the limit is now.
    pub(crate) fn keep(self: &Arc<Self>, client: IpAddr) -> SourcePermit {
        let source = source_of(self.bits, client);
        *self.open().entry(source).or_default() += 1;
        SourcePermit { source_limiter: Arc::clone(self), source }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpNet, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`SourceLimiter::admit`].
#[derive(Debug)]
pub(crate) struct SourcePermit {
    source_limiter: Arc<SourceLimiter>,
    source: IpNet,
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        let mut open = self.source_limiter.open();
        match open.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_places_and_gets_them_back() {
        assert!(SourceLimiter::new(0, [32, 64]).is_none());
        let source_limiter = SourceLimiter::new(2, [24, 64]).unwrap();
        let admit = |text: &str| source_limiter.admit(text.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let second = admit("192.0.2.2").unwrap();
        assert_eq!(admit("192.0.2.3").unwrap_err(), AtLimit("192.0.2.0/24".parse().unwrap()));
        let other = admit("192.0.3.1").unwrap();
        drop(first);
        let third = admit("192.0.2.3").unwrap();
        assert!(admit("192.0.2.1").is_err());
        let kept = source_limiter.keep("192.0.2.1".parse().unwrap());
        drop((second, third));
        assert!(admit("192.0.2.1").is_ok(), "one of two places is left");
        let last = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_err());
        drop((kept, last, other));
        assert!(source_limiter.open().is_empty());
    }

    #[test]
    fn another_limit_counts_the_connections_that_are_open() {
        let config = |source_connections| Snapshot {
            limits: crate::hub::snapshot::Limits { source_connections, ..Default::default() },
            ..Snapshot::default()
        };
        let limits = SourceLimits::new(&config(2));
        let admit = || limits.current().map(|limiter| limiter.admit("192.0.2.1".parse().unwrap()));
        let open = [admit().unwrap().unwrap(), admit().unwrap().unwrap()];
        limits.follow(&config(3));
        let third = admit().unwrap().unwrap();
        assert!(admit().unwrap().is_err());
        drop(open);
        assert!(admit().unwrap().is_ok(), "those of the limiter before have ended");
        limits.follow(&config(0));
        assert!(limits.current().is_none());
        drop(third);
    }
}
