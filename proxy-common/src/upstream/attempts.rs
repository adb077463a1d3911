//! The order of attempts to connect, and the pauses between them.

use core::time::Duration;

/// First and longest pause between two passes over the servers.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The servers that one pass tries, by number: in order of preference, each once.
#[derive(Debug, Clone)]
pub struct Attempts {
    next: usize,
    servers: usize,
}

impl Attempts {
    /// A pass over `servers` servers.
    #[must_use]
    pub const fn new(servers: usize) -> Self {
        Self { next: 0, servers }
    }
}

impl Iterator for Attempts {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let server = (self.next < self.servers).then_some(self.next)?;
        self.next += 1;
        Some(server)
    }
}

/// The pauses between the passes of one connection.
#[derive(Debug, Clone)]
pub struct Pause {
    next: Duration,
    /// Factor of at least 1 and less than 1.5.
    spread: f64,
}

impl Pause {
    /// The pauses of the connection with this id. Connections that are held try again at slightly different
    /// times, or a server that has just come up meets all of them at once.
    #[must_use]
    pub fn new(connection: u64) -> Self {
        let spread = 1.0 + f64::from(u8::try_from(connection % 64).unwrap_or(0)) / 128.0;
        Self { next: PAUSE_MIN, spread }
    }

    /// The pause before the next pass, at most `left`. None: no time is left.
    pub fn next(&mut self, left: Duration) -> Option<Duration> {
        if left.is_zero() {
            return None;
        }
        let pause = self.next.mul_f64(self.spread);
        self.next = (self.next * 2).min(PAUSE_MAX);
        Some(pause.min(left))
    }
}

/// How long an attempt at each of `addresses` addresses of one server may take. An address that does not answer
/// must not hide the others, and all together take at most as long as the client is held, or as one attempt.
#[must_use]
pub fn time_per_address(limit: Duration, hold: Duration, addresses: usize) -> Duration {
    let addresses = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    limit.min(hold.max(limit) / addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_tries_each_server_once_in_order() {
        assert_eq!(Attempts::new(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(Attempts::new(0).next(), None);
    }

    #[test]
    fn pauses_double_up_to_a_second_and_end_with_the_time() {
        let mut pause = Pause::new(64);
        let left = Duration::from_secs(60);
        let pauses: Vec<_> = (0..6).filter_map(|_| pause.next(left)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pause.next(Duration::from_millis(7)), Some(Duration::from_millis(7)));
        assert_eq!(pause.next(Duration::ZERO), None);
    }

    #[test]
    fn pauses_of_different_connections_differ_by_less_than_half() {
        let first = |connection| Pause::new(connection).next(Duration::from_secs(60)).unwrap().as_micros();
        assert_eq!((first(0), first(1), first(63)), (100_000, 100_781, 149_218));
    }

    #[test]
    fn all_addresses_of_a_name_have_their_time_within_that_of_the_client() {
        let seconds = Duration::from_secs;
        assert_eq!(time_per_address(seconds(5), seconds(15), 1), seconds(5));
        assert_eq!(time_per_address(seconds(5), seconds(1), 1), seconds(5));
        assert_eq!(time_per_address(seconds(5), seconds(15), 2), seconds(5));
        assert_eq!(time_per_address(seconds(5), seconds(15), 5), seconds(3));
        assert_eq!(time_per_address(seconds(5), seconds(0), 2), seconds(5) / 2);
    }
}
