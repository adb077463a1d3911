//! What an operator has ordered of a flow, on its way to those who carry it out.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// What can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// End at once, by a reset to both ends.
    Kill,
    /// Leave the sockets.
    Promote,
    /// Go back into sockets, and stay there.
    Demote,
}

const KILL: u8 = 1;
const PROMOTE: u8 = 2;
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
            Order::Promote => (PROMOTE, STAY),
            Order::Demote => (STAY, PROMOTE),
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

    /// The flow is not to leave its sockets by itself, and to go back if it has left them.
    pub(crate) fn are_to_stay(&self) -> bool {
        self.has(STAY)
    }

    /// Returns once the flow is to leave its sockets. That was said once: a try in vain does not lead to another one.
    pub(crate) async fn to_leave(&self) {
        while !self.take(PROMOTE) {
            self.bell.notified().await;
        }
    }

    /// The flow has left its sockets. Says whether that is not what was ordered meanwhile.
    pub(super) fn left(&self) -> bool {
        self.take(PROMOTE);
        self.has(KILL | STAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_order_counts_and_a_kill_is_final() {
        let orders = Orders::default();
        orders.give(Order::Demote);
        assert!(orders.are_to_stay() && !orders.are_to_kill());
        orders.give(Order::Promote);
        assert!(!orders.are_to_stay());
        orders.give(Order::Kill);
        orders.give(Order::Demote);
        assert!(orders.are_to_kill() && orders.are_to_stay());
        assert!(orders.left());
    }

    #[test]
    fn a_promotion_is_tried_once() {
        let orders = Orders::default();
        orders.give(Order::Promote);
        assert!(orders.take(PROMOTE) && !orders.take(PROMOTE) && !orders.left());
    }
}
