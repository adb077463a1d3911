//! What the machine spent.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The unit of /proc/stat on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures the time that all processors together were busy: wall-clock time less idle time, which the kernel keeps
/// exactly where it samples the rest.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    before: Processors,
}

/// What [`Clock`] measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) elapsed: Duration,
    /// Of all processors together.
    pub(crate) busy: Duration,
}

impl Clock {
    pub(crate) fn start() -> Result<Self> {
        let before = Processors::read()?;
        Ok(Self { start: Instant::now(), before })
    }

    pub(crate) fn stop(&self) -> Result<Used> {
        let elapsed = self.start.elapsed();
        let now = Processors::read()?;
        let all = elapsed.as_secs_f64() * now.count as f64;
        let unused = now.unused - self.before.unused;
        Ok(Used { elapsed, busy: Duration::from_secs_f64((all - unused).max(0.0)) })
    }
}

/// All processors of the machine.
#[derive(Debug, PartialEq)]
struct Processors {
    count: usize,
    /// Seconds since the machine started in which they did nothing, waited for a disk, or were not ours because of the
    /// hypervisor.
    unused: f64,
}

impl Processors {
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Self::parse(&stat).context("/proc/stat has no line for all processors")
    }

    fn parse(stat: &str) -> Option<Self> {
        let all = stat.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<f64> = all.split_whitespace().flat_map(str::parse::<f64>).collect();
        let [_user, _nice, _system, idle, iowait, _irq, _softirq, steal, ..] = fields.as_slice() else {
            return None;
        };
        let count = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        Some(Self { count, unused: (idle + iowait + steal) / TICKS_PER_SECOND })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_used() {
        let stat = "cpu  100 1 200 5000 300 7 8 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 1 1 1 1\nintr 1\n";
        assert_eq!(Processors::parse(stat), Some(Processors { count: 2, unused: 53.5 }));
        assert_eq!(Processors::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(Processors::parse("cpu  1 2 3\n"), None);
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let clock = Clock::start().unwrap();
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {}
        let used = clock.stop().unwrap();
        assert!(used.elapsed >= Duration::from_millis(300));
        assert!(used.busy >= Duration::from_millis(150), "{used:?}");
    }
}
