//! The clock of the BPF programs.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since a moment that a BPF program has noted, in nanoseconds of the monotonic clock. 0, which is never: since the
/// clock began.
pub(crate) fn since(ns: u64) -> Duration {
    now().saturating_sub(Duration::from_nanos(ns))
}

/// The time on that clock.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Milliseconds of the monotonic clock, as the programs of the packet datapath count them: they wrap round.
pub(crate) fn now_ms() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let ms = i128::from(now.tv_sec) * 1000 + i128::from(now.tv_nsec) / 1_000_000;
    u32::try_from(ms & i128::from(u32::MAX)).unwrap_or(0)
}

/// Milliseconds since the host was started.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(i128::from(now.tv_sec) * 1000 + i128::from(now.tv_nsec) / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_is_yet_to_come_is_now() {
        assert!(since(0) > Duration::ZERO);
        assert_eq!(since(u64::MAX), Duration::ZERO);
    }
}
