//! Where live connections come from, and who misbehaves: what the front knows and the guard wants to.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use proxy_common::guard::{Offence, overlap};
use tokio::sync::Notify;

/// Offences that wait for the guard. It looks at once, so that more of them come from a flood that it knows of already.
const MAX_OFFENCES: usize = 4096;

/// Sources, counted by the first bits of their addresses.
pub(crate) struct Sources {
    bits: [u8; 2],
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    live: HashMap<IpNet, Live>,
    changed: HashSet<IpNet>,
    offences: Vec<(IpNet, Offence)>,
}

/// Established flows of one source.
#[derive(Debug, Clone, Copy, Default)]
struct Live {
    flows: usize,
    /// Those to upstreams that protect their clients.
    protected: usize,
}

/// What has happened since it was asked last.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) offences: Vec<(IpNet, Offence)>,
    /// Sources that have come to have live flows, or to have none.
    pub(crate) changed: Vec<(IpNet, bool)>,
}

impl Sources {
    /// Bits of IPv4 and of IPv6 addresses that make a source.
    pub(crate) fn new(bits: [u8; 2]) -> Self {
        Self { bits, state: Mutex::default(), news: Notify::new() }
    }

    /// What an address is counted as.
    pub(crate) fn source(&self, address: IpAddr) -> IpNet {
        source_of(self.bits, address)
    }

    /// A flow is established, until the returned value is dropped.
    pub(crate) fn established(self: &Arc<Self>, client: IpAddr, is_protected: bool) -> Established {
        let source = self.source(client);
        let mut state = self.state();
        let live = state.live.entry(source).or_default();
        live.flows += 1;
        live.protected += usize::from(is_protected);
        if live.flows == 1 {
            state.changed.insert(source);
            self.news.notify_one();
        }
        Established { sources: Arc::clone(self), source, is_protected }
    }

    /// A client did what it should not.
    pub(crate) fn offend(&self, client: IpAddr, offence: Offence) {
        let source = self.source(client);
        let mut state = self.state();
        if state.offences.len() < MAX_OFFENCES {
            state.offences.push((source, offence));
        }
        self.news.notify_one();
    }

    /// Whether any source in `net` has flows that protect it.
    pub(crate) fn protects(&self, net: &IpNet) -> bool {
        let state = self.state();
        match state.live.get(net) {
            Some(live) => live.protected > 0,
            None => state.live.iter().any(|(source, live)| live.protected > 0 && overlap(source, net)),
        }
    }

    /// Returns once there may be something new.
    pub(crate) async fn wait(&self) {
        self.news.notified().await;
    }

    pub(crate) fn take(&self) -> News {
        let mut state = self.state();
        let changed: Vec<IpNet> = state.changed.drain().collect();
        let is_live = |source: &IpNet| state.live.contains_key(source);
        let changed = changed.into_iter().map(|source| (source, is_live(&source))).collect();
        News { changed, offences: std::mem::take(&mut state.offences) }
    }

    fn ended(&self, source: IpNet, is_protected: bool) {
        let mut state = self.state();
        let Some(live) = state.live.get_mut(&source) else { return };
        live.flows -= 1;
        live.protected -= usize::from(is_protected);
        if live.flows == 0 {
            state.live.remove(&source);
            state.changed.insert(source);
            self.news.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an address is counted as, where so many bits of IPv4 and of IPv6 addresses make a source.
pub(super) fn source_of([v4, v6]: [u8; 2], address: IpAddr) -> IpNet {
    let bits = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, bits).map_or(IpNet::from(address), |net| net.trunc())
}

/// See [`Sources::established`].
pub(crate) struct Established {
    sources: Arc<Sources>,
    source: IpNet,
    is_protected: bool,
}

impl Drop for Established {
    fn drop(&mut self) {
        self.sources.ended(self.source, self.is_protected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_live_from_its_first_flow_to_its_last() {
        let sources = Arc::new(Sources::new([24, 64]));
        let one = sources.established(ip("192.0.2.1"), false);
        let other = sources.established(ip("192.0.2.9"), true);
        let mut changed = sources.take().changed;
        changed.sort_unstable();
        assert_eq!(changed, [(net("192.0.2.0/24"), true)]);
        assert!(sources.protects(&net("192.0.2.0/24")) && sources.protects(&net("192.0.2.9/32")));
        assert!(sources.protects(&net("192.0.0.0/16")) && !sources.protects(&net("192.0.3.0/24")));
        drop(other);
        assert!(!sources.protects(&net("192.0.2.0/24")));
        assert_eq!(sources.take().changed, []);
        drop(one);
        assert_eq!(sources.take().changed, [(net("192.0.2.0/24"), false)]);
    }

    #[test]
    fn offences_are_kept_until_they_are_taken_and_are_bounded() {
        let sources = Arc::new(Sources::new([32, 48]));
        sources.offend(ip("2001:db8:1:2::3"), Offence::NoHello);
        assert_eq!(sources.take().offences, [(net("2001:db8:1::/48"), Offence::NoHello)]);
        for _ in 0..MAX_OFFENCES + 9 {
            sources.offend(ip("192.0.2.1"), Offence::BrokenHello);
        }
        assert_eq!(sources.take().offences.len(), MAX_OFFENCES);
        assert_eq!(sources.take().offences, []);
    }
}
