//! Keeps what all flows have on their way within the memory that the host has for TCP.

use std::time::{Duration, Instant};

use proxy_common::flow::{Budget, Change};

use crate::hub::snapshot::Limits;
use crate::kernel::Sockmap;
use crate::sys;

/// An operator needs one line for a host that is short of memory, not one for each time that it is just not.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The budget and what the log was told of it.
pub(super) struct Keeper {
    bytes: u64,
    budget: Budget,
    complained: Option<Instant>,
    short: bool,
}

impl Keeper {
    pub(super) fn new(limits: &Limits) -> Self {
        let bytes = bytes(limits);
        Self { bytes, budget: Budget::new(bytes), complained: None, short: false }
    }

    /// One look at the host, and one at no flow: a new ceiling is written to memory that the verdict has mapped.
    pub(super) fn look(&mut self, limits: &Limits, sockmap: &Sockmap) {
        let bytes = bytes(limits);
        if bytes != self.bytes {
            (self.bytes, self.budget) = (bytes, Budget::new(bytes));
            sockmap.set_ceiling(self.budget.ceiling());
        }
        let Some(used) = sys::tcp_memory() else { return };
        match self.budget.step(used) {
            Change::None => return,
            Change::Shrunk => self.complain(used),
            Change::Grown => self.relax(used),
        }
        sockmap.set_ceiling(self.budget.ceiling());
    }

    fn complain(&mut self, used: u64) {
        if !self.short && self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.short = true;
            self.complained = Some(Instant::now());
            tracing::warn!(
                used,
                budget = self.bytes,
                "TCP buffers are above tcp_memory: flows get less credit"
            );
        }
    }

    fn relax(&mut self, used: u64) {
        if self.short && !self.budget.is_short() {
            self.short = false;
            tracing::info!(
                used,
                budget = self.bytes,
                "TCP buffers are below tcp_memory: flows get full credit again"
            );
        }
    }
}

fn bytes(limits: &Limits) -> u64 {
    limits.tcp_memory.unwrap_or_else(sys::modest_tcp_memory)
}
