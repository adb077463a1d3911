//! What an operator has ordered of a flow, on its way to those who carry it out.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// What can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// End at once, by a reset to both ends.
    Kill,
    /// Be offloaded.
    Offload,
    /// Have sockets again, and keep them.
    Restore,
}

const KILL: u8 = 1;
const OFFLOAD: u8 = 2;
const STAY: u8 = 4;

/// The orders for one flow. The last one counts, but that a kill is final.
#[derive(Default)]
pub(crate) struct Orders {
    bits: AtomicU8,
    bell: Notify,
}

impl Orders {
    pub(super) fn give(&self, order: Order) {
        let (set, clear) = match order {
            Order::Kill => (KILL, 0),
            Order::Offload => (OFFLOAD, STAY),
            Order::Restore => (STAY, OFFLOAD),
        };
        let give = |bits: u8| Some((bits & !clear) | set);
        let _ = self.bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
        self.bell.notify_one();
    }

    fn has(&self, bits: u8) -> bool {
        self.bits.load(Ordering::Relaxed) & bits != 0
    }

    fn take(&self, bits: u8) -> bool {
        self.bits.fetch_and(!bits, Ordering::Relaxed) & bits != 0
    }

    /// The flow is to end.
    pub(crate) fn are_to_kill(&self) -> bool {
        self.has(KILL)
    }

    /// The flow is not to be offloaded by itself, and to be restored if it is.
    pub(crate) fn are_to_stay(&self) -> bool {
        self.has(STAY)
    }

    /// Returns once the flow is to be offloaded. An order holds for one attempt.
    pub(crate) async fn to_offload(&self) {
        while !self.take(OFFLOAD) {
            self.bell.notified().await;
        }
    }

    /// The flow is offloaded. Says whether something else was ordered meanwhile.
    pub(super) fn offloaded(&self) -> bool {
        self.take(OFFLOAD);
        self.has(KILL | STAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_order_counts_and_a_kill_is_final() {
        let orders = Orders::default();
        orders.give(Order::Restore);
        assert!(orders.are_to_stay() && !orders.are_to_kill());
        orders.give(Order::Offload);
        assert!(!orders.are_to_stay());
        orders.give(Order::Kill);
        orders.give(Order::Restore);
        assert!(orders.are_to_kill() && orders.are_to_stay());
        assert!(orders.offloaded());
    }

    #[test]
    fn an_order_to_offload_is_tried_once() {
        let orders = Orders::default();
        orders.give(Order::Offload);
        assert!(orders.take(OFFLOAD) && !orders.take(OFFLOAD) && !orders.offloaded());
    }
}
