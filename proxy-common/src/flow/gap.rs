//! Whether userspace may read a socket that is under the verdict.
//!
//! The verdict takes bytes off the socket, so that the kernel's position in the stream is right only as long as the verdict runs.
//! When another program removes the socket from our map, the kernel throws away the bytes that the verdict had passed and
//! nobody had read. Later bytes then stand behind a gap, and each read of the socket makes the kernel warn with a
//! stack trace ("TCP recvmsg seq # bug"). So the counts are compared before each read: what the kernel has received must
//! have been seen by the verdict.

use std::time::Duration;

use super::Reading;

/// A gap counts when the verdict has not seen the same bytes for this long. It sees each segment in the moment in which the
/// kernel counts it.
const SETTLED: Duration = Duration::from_millis(50);

/// Reads that may find nothing while one received byte is in doubt.
const DOUBTFUL_READS: u8 = 2;

/// Watches one source. Small, since every flow has two.
#[derive(Debug, Default)]
pub struct Gap {
    /// What the kernel had received when the verdict was first found behind,
    received: u64,
    /// and when that was, in milliseconds, which wrap round every 49 days: it is asked again after [`SETTLED`] at the latest.
    since: u32,
    /// Whether it was found behind.
    is_behind: bool,
    in_doubt: bool,
    doubtful_reads: u8,
}

/// What may be done with the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Do not read it now. Ask again after this time.
    Wait(Duration),
    /// Never read it again: bytes of the stream are gone.
    Lost,
}

impl Gap {
    /// To be asked before each read. `received`: bytes since the verdict took over, as of `reading`, a FIN included. `seen`: bytes that
    /// the verdict has counted, asked for after `reading`.
    pub fn check(&mut self, now: Duration, reading: &Reading, received: u64, seen: u64) -> Access {
        let received = received.saturating_sub(u64::from(reading.fin_received()));
        let unseen = received.saturating_sub(seen);
        // A closed socket does not say whether the last count was a FIN.
        self.in_doubt = unseen == 1 && reading.is_closed();
        if unseen == 0 || (self.in_doubt && self.doubtful_reads < DOUBTFUL_READS) {
            self.is_behind = false;
            return Access::Read;
        }
        let now = millis(now);
        // Or the verdict runs, and has caught up with that.
        let is_new = !self.is_behind || (seen >= self.received && !self.in_doubt);
        if is_new {
            (self.received, self.since, self.is_behind) = (received, now, true);
            return Access::Wait(SETTLED);
        }
        match SETTLED.checked_sub(Duration::from_millis(now.wrapping_sub(self.since).into())) {
            Some(left) if !left.is_zero() => Access::Wait(left),
            _ => Access::Lost,
        }
    }

    /// A read that was allowed has found nothing.
    pub fn nothing_read(&mut self) {
        self.doubtful_reads = self.doubtful_reads.saturating_add(u8::from(self.in_doubt));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "differences are taken")]
const fn millis(time: Duration) -> u32 {
    time.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::reading::{CLOSE, CLOSE_WAIT};

    const OPEN: u8 = 1;

    fn at(state: u8) -> Reading {
        Reading { state, ..Reading::default() }
    }

    fn check(gap: &mut Gap, ms: u64, state: u8, received: u64, seen: u64) -> Access {
        gap.check(Duration::from_millis(ms), &at(state), received, seen)
    }

    #[test]
    fn what_the_verdict_has_seen_is_read() {
        let mut gap = Gap::default();
        assert_eq!(check(&mut gap, 0, OPEN, 0, 0), Access::Read);
        assert_eq!(check(&mut gap, 1, OPEN, 100, 100), Access::Read);
        assert_eq!(check(&mut gap, 2, OPEN, 100, 150), Access::Read, "asked for later");
        assert_eq!(check(&mut gap, 3, CLOSE_WAIT, 151, 150), Access::Read, "a FIN counts as one");
    }

    #[test]
    fn bytes_that_the_verdict_does_not_see_are_never_read() {
        let mut gap = Gap::default();
        assert_eq!(check(&mut gap, 0, OPEN, 101, 100), Access::Wait(SETTLED));
        assert_eq!(check(&mut gap, 30, OPEN, 500, 100), Access::Wait(Duration::from_millis(20)));
        assert_eq!(check(&mut gap, 50, OPEN, 900, 100), Access::Lost);
        assert_eq!(check(&mut gap, 60, CLOSE_WAIT, 901, 100), Access::Lost);
        assert_eq!(check(&mut gap, 70, CLOSE, 901, 100), Access::Lost);
    }

    #[test]
    fn a_verdict_that_catches_up_is_no_gap_however_busy_it_is() {
        let mut gap = Gap::default();
        for turn in 1..100 {
            let wait = check(&mut gap, turn * 40, OPEN, turn * 1000, turn * 1000 - 500);
            assert!(matches!(wait, Access::Wait(_)), "{turn}: {wait:?}");
        }
        assert_eq!(check(&mut gap, 5000, OPEN, 100_000, 100_000), Access::Read);
    }

    #[test]
    fn one_byte_of_a_closed_socket_may_be_its_end_but_not_for_ever() {
        let mut gap = Gap::default();
        for _ in 0..5 {
            assert_eq!(check(&mut gap, 0, CLOSE, 101, 100), Access::Read, "bytes come");
        }
        for _ in 0..DOUBTFUL_READS {
            assert_eq!(check(&mut gap, 0, CLOSE, 101, 100), Access::Read);
            gap.nothing_read();
        }
        assert_eq!(check(&mut gap, 10, CLOSE, 101, 100), Access::Wait(SETTLED));
        assert_eq!(check(&mut gap, 60, CLOSE, 101, 100), Access::Lost);
    }

    #[test]
    fn reads_that_find_nothing_are_no_sign_while_the_counts_agree() {
        let mut gap = Gap::default();
        for _ in 0..100 {
            assert_eq!(check(&mut gap, 0, OPEN, 100, 100), Access::Read);
            gap.nothing_read();
        }
        assert_eq!(check(&mut gap, 0, CLOSE, 101, 100), Access::Read);
    }
}
