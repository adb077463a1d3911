//! Somebody else may take the programs away from an interface. Packets of flows without sockets then come to the stack of this host,
//! which answers each with a reset. So the programs are attached again as soon as that is seen, both ends of every flow are asked
//! whether they have been reset meanwhile, and what ends for that is said to have ended for that.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy_common::abi::packet::Entry;
use proxy_common::flow::{End, Reason};
use proxy_common::packet::life::Step;
use tokio::sync::Notify;

use super::PacketDatapath;
use crate::hub::LogThrottle;
use crate::kernel::packet::{Again, Lost, Taken};
use crate::sys;

/// Between two looks at the programs; at pins in every so many of them.
const LOOK: Duration = Duration::from_millis(250);
const PINS_EVERY: u32 = 4;

/// Between two looks whether the ends of a flow have outlived a gap.
const DOUBT: Duration = Duration::from_millis(500);

/// How often the programs were found away, which of these gaps is over, and when the last one began or ended, by the entries' clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Last {
    opened: u64,
    closed: u64,
    at_ms: u32,
}

/// All gaps so far.
#[derive(Default)]
pub(super) struct Gaps {
    last: Mutex<Last>,
    bell: Notify,
}

/// What a flow has seen of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeenGaps {
    /// None: it has not begun yet.
    opened: Option<u64>,
    closed: u64,
    /// Since when it is in doubt whether its ends have outlived a gap. They have, once both have shown since that they live.
    doubt_ms: Option<u32>,
}

impl Gaps {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The programs are found to be away. To be called before they are attached again.
    fn open(&self, now_ms: u32) {
        let mut last = self.last();
        (last.opened, last.at_ms) = (last.opened + 1, now_ms);
    }

    fn is_open(&self) -> bool {
        let last = self.last();
        last.opened != last.closed
    }

    /// They are there again.
    fn close(&self, now_ms: u32) {
        let mut last = self.last();
        (last.closed, last.at_ms) = (last.opened, now_ms);
        drop(last);
        self.bell.notify_one();
    }

    /// Returns after that.
    pub(super) async fn closed(&self) {
        self.bell.notified().await;
    }

    /// A flow that begins now has seen all that there were.
    pub(super) fn begin(&self, seen: &mut SeenGaps) {
        let last = *self.last();
        if seen.opened.is_none() {
            *seen = SeenGaps { opened: Some(last.opened), closed: last.closed, doubt_ms: None };
        }
    }

    /// Says whether the ends of a flow are to be asked, since a gap is over.
    pub(super) fn note(&self, seen: &mut SeenGaps, entries: &[Option<Entry>; 2]) -> bool {
        let last = *self.last();
        if seen.opened != Some(last.opened) {
            (seen.opened, seen.doubt_ms) = (Some(last.opened), Some(last.at_ms));
        }
        if seen.closed != last.closed {
            (seen.closed, seen.doubt_ms) = (last.closed, Some(last.at_ms));
            return true;
        }
        if let (Some(since), [Some(client), Some(server)]) = (seen.doubt_ms, entries) {
            // An answer may come within the same millisecond.
            let live = |entry: &Entry| entry.active_ms.wrapping_sub(since).cast_signed() >= 0;
            let is_reset = client.reset | server.reset | client.doubt | server.doubt != 0;
            if last.opened == last.closed && live(client) && live(server) && !is_reset {
                seen.doubt_ms = None;
            }
        }
        false
    }
}

impl SeenGaps {
    /// As long as it is in doubt whether its ends live it is looked at more often than after this time.
    pub(super) fn limit(&self, after: Duration) -> Duration {
        if self.doubt_ms.is_some() { after.min(DOUBT) } else { after }
    }

    /// What ends a flow after a gap ends it for that, but for what both ends have agreed on.
    pub(super) fn cause(&self, step: Step) -> Step {
        let name = |end: End| match end.reason {
            Reason::Reset(_) | Reason::PeerTimeout(_) | Reason::HalfCloseTimeout => {
                End { reason: Reason::DatapathLost, side: None }
            }
            _ => end,
        };
        match step {
            _ if self.doubt_ms.is_none() => step,
            Step::Over(end) => Step::Over(name(end)),
            Step::Cut(end) => Step::Cut(name(end)),
            Step::Wait(_) | Step::Probe(..) | Step::Search(..) => step,
        }
    }
}

impl PacketDatapath {
    /// Keeps the programs where they were attached, and what is pinned, until the daemon ends. Must run inside the runtime.
    pub(crate) async fn stay_attached(self: Arc<Self>) -> io::Result<()> {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut throttles: HashMap<(String, _), LogThrottle> = HashMap::new();
        let (mut missed, unexplained) = (self.packet.missed(), LogThrottle::default());
        for round in 0_u32.. {
            tick.tick().await;
            let datapath = Arc::clone(&self);
            // The kernel may have to wait for its lock of interfaces.
            let look = move || {
                let repinned = (round % PINS_EVERY == 0).then(|| datapath.packet.look_at_pins());
                (datapath.packet.look_at_attachments(|| datapath.table.gaps.open(sys::now_ms())), repinned)
            };
            let before = std::mem::replace(&mut missed, self.packet.missed());
            let (taken, repinned) = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?;
            // They are attached again, or the interface has gone.
            if self.packet.lost().is_none() && self.table.gaps.is_open() {
                self.table.gaps.close(sys::now_ms());
            }
            if missed != before && taken.is_empty() && unexplained.is_due() {
                tracing::warn!(
                    packets = missed - before,
                    "packets of offloaded connections bypass the BPF programs; the resets of this host for them are dropped. They arrive on an \
                     interface without the programs, or have headers that the programs do not parse"
                );
            }
            for taken in &taken {
                let kind = std::mem::discriminant(&taken.again);
                let throttle = throttles.entry((taken.interface.clone(), kind)).or_default();
                // That they cannot be attached is told here only if the reason is news.
                if matches!(taken.again, Again::Failed(_)) || throttle.is_due() {
                    report(taken);
                }
            }
            let Some(repinned) = repinned else { continue };
            for file in &repinned.again {
                self.packet.repinned.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    file,
                    "another program has removed a pinned file of the packet datapath; it is pinned again"
                );
            }
            if let Some(trouble) = repinned.trouble {
                tracing::error!("a pinned file of the packet datapath has gone: {trouble}");
            }
        }
        Ok(())
    }

    /// Flows of an earlier daemon whose programs were away while there was none are asked, as after any other gap.
    pub(super) fn doubt_adopted(&self) {
        if self.packet.were_away() {
            tracing::error!(
                "another program has detached the BPF programs of the packet datapath while no daemon ran; they are attached again. If both \
                 were detached, the kernel has reset busy offloaded connections: their records say datapath_lost"
            );
            self.table.gaps.open(sys::now_ms());
            self.table.gaps.close(sys::now_ms());
        }
    }

    /// Some: the programs are away from an interface. No connection is asked anything so long, since an answer could reset it. Err: one
    /// has waited for too long, and no packet of a peer has come meanwhile.
    pub(super) fn wait_for_programs(
        &self,
        keepalive: Duration,
        entries: &[Option<Entry>; 2],
    ) -> Option<Result<Duration, End>> {
        let Lost { since, .. } = self.packet.lost()?;
        let left = keepalive.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Some(Ok(left));
        }
        let is_cut_off = is_cut_off(entries, sys::now_ms(), keepalive);
        Some(if is_cut_off { Err(End { reason: Reason::DatapathLost, side: None }) } else { Ok(DOUBT) })
    }
}

/// Whether nothing has come from a peer for so long. Connections by other interfaces go on.
fn is_cut_off(entries: &[Option<Entry>; 2], now_ms: u32, keepalive: Duration) -> bool {
    let rested = |entry: &Entry| Duration::from_millis(now_ms.wrapping_sub(entry.active_ms).into());
    entries.iter().any(|entry| entry.as_ref().is_none_or(|entry| rested(entry) >= keepalive))
}

fn report(Taken { interface, what, again }: &Taken) {
    match again {
        Again::Done => tracing::error!(
            interface,
            "another program has {what} the BPF program of the packet datapath; it is attached again. If both programs were detached, \
             the kernel has reset busy offloaded connections: their records say datapath_lost"
        ),
        Again::Later(wait) => tracing::error!(
            interface,
            "another program removes the BPF program of the packet datapath again and again. It is attached again after {} s, and no \
             connection is offloaded until that has stopped for a minute: find what removes it and stop it",
            wait.as_secs()
        ),
        Again::Behind(program) => tracing::warn!(
            interface,
            program,
            "another program has put a tc program before that of the packet datapath. If it does not pass packets on \
             (TC_ACT_UNSPEC), no more connections are offloaded (unseen), and ours is put before it for offloaded ones"
        ),
        Again::InFront(program) => tracing::warn!(
            interface,
            program,
            "another tc program has hidden packets of offloaded connections from that of the packet datapath, which has been put before \
             it; the peers send these packets again"
        ),
        Again::Failed(reason) => tracing::error!(
            interface,
            reason,
            "another program has {what} the BPF program of the packet datapath, and it cannot be attached again. Offloaded connections \
             are interrupted and no more are offloaded; it is tried again every second"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::abi::packet::flag;
    use proxy_common::flow::Side;

    fn reset() -> Step {
        Step::Over(End { reason: Reason::Reset(Side::Client), side: Some(Side::Client) })
    }

    #[test]
    fn what_ends_after_a_gap_ends_for_it_until_both_ends_have_shown_that_they_live() {
        let (gaps, mut seen) = (Gaps::default(), SeenGaps::default());
        let entries =
            |at: [u32; 2], reset| at.map(|active_ms| Some(Entry { active_ms, reset, ..Entry::default() }));
        gaps.begin(&mut seen);
        assert!(!gaps.note(&mut seen, &entries([5, 5], 0)));
        assert_eq!(seen.cause(reset()), reset());
        gaps.open(90);
        // Whatever they answered would reset them.
        assert!(!gaps.note(&mut seen, &entries([5, 5], 0)) && !gaps.note(&mut seen, &entries([91, 91], 0)));
        let lost = Step::Over(End { reason: Reason::DatapathLost, side: None });
        assert_eq!(seen.cause(reset()), lost);
        gaps.close(100);
        assert!(gaps.note(&mut seen, &entries([5, 5], 0)) && !gaps.note(&mut seen, &entries([101, 5], 0)));
        assert!(!gaps.note(&mut seen, &entries([101, 101], flag::RST)));
        assert_eq!(seen.cause(reset()), lost);
        let eof = Step::Over(End { reason: Reason::Eof, side: None });
        assert_eq!(seen.cause(eof), eof);
        assert_eq!(seen.limit(Duration::from_secs(9)), DOUBT);
        assert!(!gaps.note(&mut seen, &entries([101, 102], 0)));
        assert_eq!(seen.limit(Duration::from_secs(9)), Duration::from_secs(9));
        assert_eq!(seen.cause(reset()), reset());
    }

    #[test]
    fn only_a_connection_with_a_silent_peer_is_cut_off() {
        let keepalive = Duration::from_secs(2);
        let entries = |at: [u32; 2]| at.map(|active_ms| Some(Entry { active_ms, ..Entry::default() }));
        assert!(!is_cut_off(&entries([8001, 9000]), 10_000, keepalive));
        assert!(is_cut_off(&entries([8000, 9000]), 10_000, keepalive));
        assert!(is_cut_off(&[entries([9000; 2])[0], None], 10_000, keepalive));
    }

    #[test]
    fn a_gap_is_open_until_it_is_closed() {
        let gaps = Gaps::default();
        assert!(!gaps.is_open());
        gaps.open(1);
        gaps.open(2);
        assert!(gaps.is_open());
        gaps.close(3);
        assert!(!gaps.is_open());
    }

    #[test]
    fn a_flow_that_begins_after_a_gap_has_nothing_to_do_with_it() {
        let (gaps, mut seen) = (Gaps::default(), SeenGaps::default());
        gaps.open(90);
        gaps.close(100);
        gaps.begin(&mut seen);
        assert!(!gaps.note(&mut seen, &[None, None]));
        assert_eq!(seen.cause(reset()), reset());
    }
}
