//! Routes may change under flows without sockets. The kernel looks up the next hop of each packet by itself, but on the interface
//! that the entry names: so the daemon keeps that up to date.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Address, Entry, address_from};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::PacketDatapath;
use crate::sys::{self, Moves, News};

/// After the first sign of a change: more of them follow, as a rule.
const SETTLE: Duration = Duration::from_millis(50);

/// Of the time, at most one part in so many is spent on looking, however often something changes.
const SHARE: u32 = 10;

/// Pause between two looks where the kernel tells nothing, and where something stands in the way of a flow.
const BLIND: Duration = Duration::from_secs(10);
const BLOCKED: Duration = Duration::from_secs(1);

/// Answers that are kept during one look.
const ANSWERS: usize = 1 << 16;

/// What is known of changes.
#[derive(Default)]
pub(super) struct Routes {
    changes: AtomicU64,
    begun: AtomicBool,
    again: Notify,
}

impl Routes {
    /// How often something has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A flow has got its entries, with interfaces that were looked up when there had been so many changes.
    pub(super) fn entered(&self, changes: u64) {
        if self.changes() != changes || !self.begun.swap(true, Ordering::AcqRel) {
            self.again.notify_one();
        }
    }
}

/// What a look has found.
#[derive(Debug, Default)]
struct Found {
    moved: usize,
    lost: usize,
    /// Some packets have no way, now as before.
    is_blocked: bool,
}

impl PacketDatapath {
    /// Keeps the ways of the flows up to date, until the daemon ends. Must run inside the runtime.
    pub(crate) async fn follow(self: Arc<Self>) -> io::Result<()> {
        let moves = Moves::watch().and_then(sys::readable);
        if let Err(error) = &moves {
            tracing::warn!(%error, "changes of routes cannot be received: routes are looked up every {} s only", BLIND.as_secs());
        }
        // They may have changed while no daemon ran.
        loop {
            let begun = Instant::now();
            let datapath = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || datapath.look_up());
            let is_blocked = match look.await.map_err(io::Error::other)? {
                Ok(Found { moved, lost, is_blocked }) => {
                    if moved + lost > 0 {
                        tracing::info!(moved, lost, "offloaded connections follow their routes");
                    }
                    is_blocked
                }
                Err(error) => {
                    tracing::warn!(%error, "routes of offloaded connections cannot be looked up");
                    true
                }
            };
            let rest = begun.elapsed() * (SHARE - 1);
            let heard = self.hear(moves.as_ref().ok(), rest);
            // What stands in the way may go without a sign of it, as an error of the system does.
            if is_blocked {
                tokio::time::timeout(BLOCKED.max(rest), heard).await.unwrap_or(Ok(()))?;
            } else {
                heard.await?;
            }
        }
    }

    /// Waits for something to change, and then for at least the time that is to be rested.
    async fn hear(self: &Arc<Self>, moves: Option<&AsyncFd<Moves>>, rest: Duration) -> io::Result<()> {
        let Some(moves) = moves else {
            tokio::time::sleep(BLIND).await;
            return self.find_again(News { gone: Vec::new(), lost: true }).await;
        };
        tokio::select! {
            ready = moves.readable() => {
                ready?.clear_ready();
                // Whoever has looked before this may have seen what was before.
                self.routes.changes.fetch_add(1, Ordering::AcqRel);
            }
            () = self.routes.again.notified() => {}
        }
        // At once, since packets may come in by them; the ways out can wait for more of the same.
        self.take(moves).await?;
        tokio::time::sleep(SETTLE.max(rest)).await;
        self.take(moves).await
    }

    async fn take(self: &Arc<Self>, moves: &AsyncFd<Moves>) -> io::Result<()> {
        let mut news = News::default();
        moves.get_ref().take(&mut news);
        self.find_again(news).await
    }

    /// Interfaces that have gone and come back get the programs again. They are known by their names.
    async fn find_again(self: &Arc<Self>, news: News) -> io::Result<()> {
        let packet = Arc::clone(&self.packet);
        // The kernel may have to wait for its lock of interfaces.
        let find = move || {
            packet.doubt(if news.lost { None } else { Some(&news.gone) });
            if let Ok(found) = sys::interfaces() {
                packet.attach_again(&found.links);
            }
        };
        tokio::task::spawn_blocking(find).await.map_err(io::Error::other)
    }

    /// Looks up the ways of all flows, and changes those that are others now.
    fn look_up(&self) -> io::Result<Found> {
        let mut ways = Ways { datapath: self, router: sys::Router::open()?, known: HashMap::new() };
        let (mut found, mut any) = (Found::default(), false);
        self.packet.for_each(|key, entry| {
            any = true;
            let device = ways.of(entry);
            found.is_blocked |= device == 0;
            if device == entry.device {
                return;
            }
            match self.packet.steer(key, device) {
                Ok(true) if device == 0 => found.lost += 1,
                Ok(true) => found.moved += 1,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the route of an offloaded connection cannot be changed");
                }
            }
        })?;
        if any {
            self.attach_all();
        }
        Ok(found)
    }

    /// Packets of flows may come in by any interface, whatever way ours go out; one that finds no program there is answered with
    /// a reset. On their way from the port of a bridge to the bridge they may pass the firewall (`br_netfilter`), which does not know them.
    fn attach_all(&self) {
        let (Ok(found), Ok(router)) = (sys::interfaces(), sys::Router::open()) else { return };
        for &device in &found.addressed {
            // Those that are no Ethernet have none.
            let _ = self.packet.attach(device);
        }
        for device in found.links.into_values().filter(|device| !found.addressed.contains(device)) {
            let bridge = router.device(device).ok().and_then(|device| device.bridge);
            if bridge.is_some_and(|bridge| found.addressed.contains(&bridge)) {
                let _ = self.packet.attach(device);
            }
        }
    }
}

/// The ways of many flows, most of which are the same.
struct Ways<'a> {
    datapath: &'a PacketDatapath,
    router: sys::Router,
    known: HashMap<(Address, Address), u32>,
}

impl Ways<'_> {
    /// The interface that the packets of an entry have to go out by, with the programs at it. 0: there is none.
    fn of(&mut self, entry: &Entry) -> u32 {
        let ends = (entry.source, entry.target);
        if let Some(device) = self.known.get(&ends) {
            return *device;
        }
        let (source, target) = (address_from(&entry.source), address_from(&entry.target));
        let device = self.find(source, target).unwrap_or_else(|error| {
            tracing::debug!(%source, %target, %error, "there is no route any more");
            0
        });
        if self.known.len() >= ANSWERS {
            self.known.clear();
        }
        self.known.insert(ends, device);
        device
    }

    fn find(&self, source: IpAddr, target: IpAddr) -> io::Result<u32> {
        // An address that this host has lost for the moment is none that packets must not bear.
        let route = self.router.route(Some(source), target).or_else(|_| self.router.route(None, target))?;
        if route.is_here {
            return Err(io::Error::other("the address is one of this host"));
        }
        self.datapath.packet.attach(route.device).map_err(|reason| io::Error::other(reason.to_string()))?;
        Ok(route.device)
    }
}
