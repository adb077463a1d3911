//! Round trips: each flow has one request of 64 bytes under way at any time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use harness::deadline::PATIENCE;

use super::poll::Poller;
use super::{Stage, WARM_UP, open_greeted};
use crate::meter::Clock;
use crate::network::Service;
use crate::stats;
use crate::values::{Metric, Values};

const REQUEST: [u8; 64] = [0x2a; 64];

/// Plays ping-pong on `flows` flows.
pub(crate) fn run(stage: &Stage<'_>, flows: usize) -> Result<Values> {
    let window = stage.window;
    let mut streams = open_greeted(stage.path, Service::Echo, flows)?;
    (stage.settled)(flows)?;
    let echoed = || stage.echo.counts().echoed.load(Ordering::Relaxed);
    let before = echoed();
    let share = flows.div_ceil(thread::available_parallelism()?.get());
    let clock = Clock::start()?;
    let results: Vec<Result<Player>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        while !streams.is_empty() {
            let own = streams.split_off(streams.len().saturating_sub(share));
            threads.push(scope.spawn(move || Player::play(own, window)));
        }
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?).collect()
    });
    let used = clock.stop()?;
    let players = results.into_iter().collect::<Result<Vec<_>>>()?;
    let sent: u64 = players.iter().map(|player| player.sent).sum();
    ensure!(echoed() - before == sent, "{sent} bytes were sent, the server got {}", echoed() - before);

    let mut times: Vec<f64> = players.into_iter().flat_map(|player| player.micros).collect();
    ensure!(!times.is_empty(), "no round trip ended within {window:?}");
    let mut values = Values::default();
    values.set(Metric::RoundTrips, times.len() as f64 / window.as_secs_f64());
    values.set(Metric::MicrosPerTrip, used.busy.as_secs_f64() * 1e6 / (sent as f64 / REQUEST.len() as f64));
    times.sort_by(f64::total_cmp);
    values.set(Metric::P50, stats::quantile(&times, 0.5));
    values.set(Metric::P99, stats::quantile(&times, 0.99));
    values.set(Metric::P999, stats::quantile(&times, 0.999));
    Ok(values)
}

/// One thread with its flows.
#[derive(Default)]
struct Player {
    micros: Vec<f64>,
    sent: u64,
}

/// A flow, and what it waits for.
struct Ball {
    stream: TcpStream,
    thrown: Instant,
    left: usize,
}

impl Player {
    fn play(streams: Vec<TcpStream>, window: Duration) -> Result<Self> {
        let poller = Poller::new()?;
        let mut player = Self::default();
        let mut balls = Vec::new();
        for (token, stream) in (0..).zip(streams) {
            poller.add(&stream, token)?;
            stream.set_nonblocking(true)?;
            balls.push(Ball { stream, thrown: Instant::now(), left: 0 });
        }
        let counted_from = Instant::now() + WARM_UP;
        let end = counted_from + window;
        for ball in &mut balls {
            player.throw(ball)?;
        }
        let mut under_way = balls.len();
        let mut ready = Vec::new();
        while under_way > 0 {
            poller.wait(PATIENCE, &mut ready)?;
            ensure!(!ready.is_empty(), "no answer for {PATIENCE:?}");
            for token in ready.drain(..) {
                let Some(ball) = usize::try_from(token).ok().and_then(|token| balls.get_mut(token)) else {
                    continue;
                };
                if !ball.caught()? {
                    continue;
                }
                let now = Instant::now();
                if now >= counted_from && now < end {
                    player.micros.push((now - ball.thrown).as_secs_f64() * 1e6);
                }
                if now < end {
                    player.throw(ball)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(player)
    }

    fn throw(&mut self, ball: &mut Ball) -> Result<()> {
        ball.thrown = Instant::now();
        ball.left = REQUEST.len();
        self.sent += REQUEST.len() as u64;
        ball.stream.write_all(&REQUEST)?;
        Ok(())
    }
}

impl Ball {
    /// True when the whole answer is there.
    fn caught(&mut self) -> Result<bool> {
        let mut buffer = REQUEST;
        match self.stream.read(buffer.split_at_mut(self.left).0) {
            Ok(0) => Err(anyhow!("the connection ended")),
            Ok(count) => {
                self.left -= count;
                Ok(self.left == 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
