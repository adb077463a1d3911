//! Interfaces that come and go, addresses that change, and the rest of what happens while the daemon runs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_common::guard::Endpoint;

use super::{Guard, LOOK_EVERY, ROUND, State, is_running};
use crate::kernel::guard::{Mode, numbers};
use crate::sys;

/// Runs as long as the daemon does.
pub(super) async fn run(guard: Arc<Guard>) {
    let changes = sys::Changes::watch().and_then(sys::readable);
    if let Err(error) = &changes {
        tracing::warn!(%error, "changes of interfaces cannot be received: interfaces are checked every {LOOK_EVERY} s only");
    }
    let mut round = 0;
    let mut tick = tokio::time::interval(ROUND);
    while is_running(&guard.hub) {
        let news = async {
            match &changes {
                Ok(changes) => {
                    let mut ready = changes.readable().await.ok()?;
                    ready.get_inner().take();
                    ready.clear_ready();
                    Some(())
                }
                Err(_) => std::future::pending().await,
            }
        };
        let sources = async {
            match guard.hub.sources.get() {
                Some(sources) => sources.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = news => guard.look(),
            () = sources => guard.hear(),
            _ = tick.tick() => {
                guard.expire();
                round += 1;
                if round % LOOK_EVERY == 0 {
                    guard.look();
                    guard.count();
                }
            }
        }
    }
}

impl Guard {
    /// Adapts to what there is.
    pub(super) fn adapt(&self, found: &sys::Interfaces) {
        let mut state = self.state();
        for name in &self.config.interfaces {
            self.follow(&mut state, name, found.links.get(&**name).copied());
        }
        let endpoints = self.endpoints(&found.addresses);
        if endpoints != state.endpoints {
            match self.kernel.set_listeners(&endpoints) {
                Ok(()) => {
                    tracing::debug!(endpoints = endpoints.len(), "the guard knows the listeners' addresses");
                }
                Err(error) => {
                    tracing::error!(%error, "the guard keeps to the addresses that it knows: listen on fewer, and not on [::]");
                }
            }
            // Not tried again before something changes.
            state.endpoints = endpoints;
        }
    }

    /// Every address and port that is listened on. `[::]` and `0.0.0.0` stand for the host's own addresses: packets that are only
    /// forwarded here are nobody's business.
    fn endpoints(&self, own: &[IpAddr]) -> HashSet<Endpoint> {
        let config = self.hub.config.current();
        let listeners = config.listeners.iter().flat_map(|listener| &listener.addresses);
        let mut all = HashSet::new();
        for listened in listeners {
            let (ip, port) = (listened.ip().to_canonical(), listened.port());
            let addresses: Vec<IpAddr> = match ip {
                IpAddr::V4(ip) if ip.is_unspecified() => {
                    own.iter().copied().filter(IpAddr::is_ipv4).collect()
                }
                IpAddr::V6(ip) if ip.is_unspecified() => own.to_vec(),
                ip => vec![ip],
            };
            all.extend(addresses.into_iter().map(|ip| Endpoint { address: numbers(ip), port }));
        }
        all
    }

    fn follow(&self, state: &mut State, name: &Arc<str>, number: Option<u32>) {
        let Some(number) = number else {
            let was_there = state.places.remove(name).is_some();
            if state.absent.insert(Arc::clone(name)) {
                let what = if was_there { "the interface has gone" } else { "there is no such interface" };
                tracing::warn!(
                    interface = %name,
                    "{what}: its packets are not guarded; the guard waits for it, check the name in [guard] with `ip link`"
                );
            }
            return;
        };
        if state.absent.remove(name) {
            tracing::warn!(interface = %name, "the interface has appeared: the guard attaches to it");
        }
        if let Some(Ok(link)) = state.places.get(name)
            && link.interface == number
        {
            if link.is_attached() {
                return;
            }
            tracing::error!(interface = %name, "another program has detached the guard; it is attached again");
        }
        let modes: &[Mode] = match self.config.native {
            Some(true) => &[Mode::Native],
            Some(false) => &[Mode::Generic],
            None => &[Mode::Native, Mode::Generic],
        };
        let place = match self.kernel.attach((&**name, number), modes, self.config.pin.as_deref()) {
            Ok(link) => {
                tracing::info!(
                    interface = %name, mode = link.mode.name(), dry_run = self.config.dry_run, "guard attached"
                );
                Ok(link)
            }
            Err(reason) => {
                let known = matches!(state.places.get(name), Some(Err(before)) if *before == reason);
                if !known {
                    tracing::error!(interface = %name, %reason, "no guard there; it is tried again");
                }
                Err(reason)
            }
        };
        state.places.insert(Arc::clone(name), place);
    }

    fn count(&self) {
        match self.kernel.watched() {
            Ok(entries) => self.state().watched = entries,
            Err(error) => tracing::debug!(%error, "the map of sources cannot be counted"),
        }
    }
}
