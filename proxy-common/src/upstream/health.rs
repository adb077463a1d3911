//! Whether a server accepts connections, as far as attempts to connect to it have shown.

use core::time::Duration;

/// Time between two times that the operator is told of one server that stops and starts to accept again and again.
const QUIET: Duration = Duration::from_secs(10);

/// What the last attempt has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Nobody has tried.
    Unknown,
    /// It accepted a connection.
    Up,
    /// It did not.
    Down,
}

impl ServerState {
    /// The word in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What the operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerNews {
    /// It does not accept.
    Down,
    /// It accepts again, after so long. Told only after [`Self::Down`] was.
    Up(Duration),
}

/// One server. Times are since any fixed moment, and do not go back.
#[derive(Debug, Clone, Copy)]
pub struct ServerHealth {
    state: ServerState,
    since: Duration,
    failures: u64,
    /// The operator was told that it is down, and not yet that it is up again.
    is_told: bool,
    told_at: Option<Duration>,
}

impl ServerHealth {
    /// One that nobody has tried.
    #[must_use]
    pub const fn new(now: Duration) -> Self {
        Self { state: ServerState::Unknown, since: now, failures: 0, is_told: false, told_at: None }
    }

    /// It has accepted a connection.
    pub fn accepted(&mut self, now: Duration) -> Option<ServerNews> {
        let down_for = now.saturating_sub(self.since);
        self.enter(ServerState::Up, now);
        core::mem::take(&mut self.is_told).then_some(ServerNews::Up(down_for))
    }

    /// An attempt has failed.
    pub fn failed(&mut self, now: Duration) -> Option<ServerNews> {
        self.enter(ServerState::Down, now);
        self.failures += 1;
        let is_due = self.told_at.is_none_or(|at| now.saturating_sub(at) >= QUIET);
        if self.is_told || !is_due {
            return None;
        }
        (self.is_told, self.told_at) = (true, Some(now));
        Some(ServerNews::Down)
    }

    fn enter(&mut self, state: ServerState, now: Duration) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    /// What the last attempt has shown.
    #[must_use]
    pub const fn state(&self) -> ServerState {
        self.state
    }

    /// Since when it is so.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// Attempts that have failed, ever.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_told_once_that_a_server_is_down_and_once_that_it_is_up_again() {
        let mut server = ServerHealth::new(at(0));
        assert_eq!(server.state(), ServerState::Unknown);
        assert_eq!(server.accepted(at(1)), None, "it was never down");
        assert_eq!(server.failed(at(5)), Some(ServerNews::Down));
        for second in 5..100 {
            assert_eq!(server.failed(at(second)), None);
        }
        assert_eq!((server.state(), server.since(), server.failures()), (ServerState::Down, at(5), 96));
        assert_eq!(server.accepted(at(100)), Some(ServerNews::Up(at(95))));
        assert_eq!(server.accepted(at(101)), None);
        assert_eq!((server.state(), server.since()), (ServerState::Up, at(100)));
    }

    #[test]
    fn a_server_that_is_down_from_the_start_is_told_of() {
        assert_eq!(ServerHealth::new(at(0)).failed(at(0)), Some(ServerNews::Down));
    }

    #[test]
    fn one_that_goes_down_again_and_again_is_told_of_every_ten_seconds() {
        let mut server = ServerHealth::new(at(0));
        let mut told = 0;
        for second in 0..100 {
            let down = server.failed(at(second));
            let up = server.accepted(at(second));
            assert_eq!(down.is_some(), up.is_some(), "one goes with the other");
            told += usize::from(down.is_some());
        }
        assert_eq!(told, 10);
    }

    /// What was not told since it was too soon is told when it is still true.
    #[test]
    fn one_that_stays_down_is_told_of_in_the_end() {
        let mut server = ServerHealth::new(at(0));
        assert!(server.failed(at(0)).is_some() && server.accepted(at(1)).is_some());
        assert_eq!((server.failed(at(2)), server.failed(at(9))), (None, None));
        assert_eq!(server.failed(at(10)), Some(ServerNews::Down));
        assert_eq!(server.accepted(at(12)), Some(ServerNews::Up(at(10))), "down since the second second");
    }
}
