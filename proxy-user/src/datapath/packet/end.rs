//! The end of a flow without sockets: both ends are told by resets, until they show that they know, or for a while.
//!
//! A reset counts only at the number that its receiver expects (RFC 5961). That is known here but for what is on its way: so
//! each reset is followed by a question, and the stack of this host answers whatever the end then says with a reset of its own,
//! at the number that the end has just named. An end that has closed answers the question with a reset: it knows.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use proxy_common::abi::packet::{Answer, Entry, Key, state};
use proxy_common::flow::{End, Reason};
use proxy_common::packet::craft::Purpose;
use proxy_common::packet::life;

use super::PacketDatapath;
use super::offload_table::{Inner, OffloadedFlow, tell};
use super::progress::{note_last, note_progress};
use super::send::note;
use crate::hub::{Flow, Hub};
use crate::sys;

/// A flow that is over keeps its entries for so long: its ends may still have to hear the last of each other, or of us.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// First and longest pause between two resets.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A stop waits so long for them.
const TOLD: Duration = Duration::from_secs(1);

/// Which ends have to be told, and for how long.
pub(super) struct Telling {
    /// The client and the server.
    ends: [bool; 2],
    until: Instant,
    pause: Duration,
}

impl Telling {
    pub(super) fn new(ends: [bool; 2]) -> Self {
        Self { ends, until: Instant::now() + LINGER, pause: PAUSE_MIN }
    }
}

impl PacketDatapath {
    /// Ends a flow that would not end by itself. Some: look again after this time. None: nothing is left of it.
    pub(super) fn cut(
        &self,
        hub: &Hub,
        offloaded: &mut OffloadedFlow,
        entries: &[Option<Entry>; 2],
        end: End,
    ) -> Option<Duration> {
        note_progress(offloaded, entries);
        note_last(hub, offloaded, entries, end);
        let [client, _] = &offloaded.keys;
        // What is not the flow's any more may be another one's.
        let is_whole = entries.iter().all(Option::is_some);
        let answer = if is_whole { self.packet.end(client) } else { Ok(Answer::Unknown) };
        let after = match answer {
            Ok(Answer::Done) => {
                offloaded.telling = Some(Telling::new([true; 2]));
                self.linger(offloaded)
            }
            _ => {
                // One of them has gone: the stack answers the other end, too.
                let unsent = self.send(&offloaded.keys, entries, [true; 2], Purpose::Reset);
                note(&offloaded.flow, &unsent);
                None
            }
        };
        // Whoever hears that the flow is over is to hear who was not told.
        tell(hub, offloaded, end);
        hub.flows.leave_parked(&offloaded.flow);
        self.table.forget(&offloaded.keys);
        after
    }

    /// The same for a flow of the lot.
    pub(super) fn cut_here(
        &self,
        hub: &Hub,
        mut inner: MutexGuard<'_, Inner>,
        key: &Key,
        entries: &[Option<Entry>; 2],
        end: End,
    ) -> Option<Duration> {
        let after = self.cut(hub, inner.offloaded.get_mut(key)?, entries, end);
        if after.is_none() {
            let offloaded = inner.offloaded.remove(key)?;
            drop(inner);
            self.clear(&offloaded);
        }
        after
    }

    /// Ends the flow whose client's packets have this key, if it is not over.
    pub(super) fn end_now(&self, hub: &Hub, key: &Key, reason: Reason) {
        let inner = self.table.inner();
        let Some(offloaded) = inner.offloaded.get(key).filter(|offloaded| offloaded.active.is_some()) else {
            return;
        };
        let entries = self.entries(&offloaded.keys);
        let after = self.cut_here(hub, inner, key, &entries, End { reason, side: None });
        self.table.look_after(key, after);
    }

    /// Ends all flows: the operator wants none to outlive the daemon.
    pub(crate) fn end_all(&self, hub: &Hub) {
        for client in self.table.alive() {
            self.end_now(hub, &client, Reason::Drain);
        }
    }

    /// Returns once all ends know that their flows are over, or after a while.
    pub(crate) async fn told(&self) {
        let begun = Instant::now();
        while self.table.inner().offloaded.values().any(|offloaded| offloaded.telling.is_some())
            && begun.elapsed() < TOLD
        {
            tokio::time::sleep(PAUSE_MIN / 4).await;
        }
    }

    /// What is left to do about a flow that is over. Some: again after this time.
    pub(super) fn linger(&self, offloaded: &mut OffloadedFlow) -> Option<Duration> {
        let entries = self.entries(&offloaded.keys);
        let [Some(client), Some(server)] = &entries else { return None };
        // A client that takes its port for another connection must not be sent anything.
        if client.state == state::DEAD || server.state == state::DEAD {
            return None;
        }
        let Some(telling) = &mut offloaded.telling else {
            let left = LINGER.saturating_sub(life::rested([client, server], sys::now_ms()));
            return (!left.is_zero()).then_some(left);
        };
        for (end, entry) in telling.ends.iter_mut().zip([client, server]) {
            *end &= entry.reset == 0;
        }
        let (ends, pause) = (telling.ends, telling.pause);
        if ends == [false; 2] || Instant::now() >= telling.until {
            return None;
        }
        telling.pause = (pause * 2).min(PAUSE_MAX);
        let unsent = self.send(&offloaded.keys, &entries, ends, Purpose::Reset);
        note(&offloaded.flow, &unsent);
        self.send(&offloaded.keys, &entries, ends, Purpose::Probe);
        Some(pause)
    }

    /// Carries out what was ordered of flows without sockets.
    pub(super) fn execute(self: &Arc<Self>, hub: &Arc<Hub>, flows: &[Arc<Flow>]) {
        for flow in flows {
            let Some([client, _]) = flow.facts().keys.as_deref().copied() else { continue };
            if flow.orders.are_to_kill() {
                self.end_now(hub, &client, Reason::Killed);
            } else if flow.orders.are_to_stay() {
                let (datapath, hub) = (Arc::clone(self), Arc::clone(hub));
                tokio::spawn(async move { datapath.take_back(&hub, client, None).await });
            }
        }
    }
}
