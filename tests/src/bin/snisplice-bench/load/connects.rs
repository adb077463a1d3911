//! New connections: each client connects, says hello, waits for the greeting, closes, and begins again.

use std::io::Read as _;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{GREETING, Stage, WARM_UP, hello, open};
use crate::meter::Clock;
use crate::network::{Path, Service};
use crate::stats;
use crate::values::{Metric, Values};

/// Connects in a closed loop with `clients` clients.
pub(crate) fn run(stage: &Stage<'_>, clients: usize) -> Result<Values> {
    let (path, window) = (stage.path, stage.window);
    let greeted = || stage.echo.counts().greeted.load(Ordering::Relaxed);
    let before = greeted();
    let clock = Clock::start()?;
    let results = path.client.enter(|| {
        Ok(thread::scope(|scope| {
            let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| client(path, window))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Client>>| {
                thread.join().map_err(|_| anyhow!("a client panicked"))?
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        }))
    })?;
    let used = clock.stop()?;
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    let all: u64 = results.iter().map(|client| client.all).sum();
    ensure!(greeted() - before == all, "{all} clients were greeted, by {} servers", greeted() - before);

    let mut times: Vec<f64> = results.into_iter().flat_map(|client| client.millis).collect();
    ensure!(!times.is_empty(), "no connection was made within {window:?}");
    times.sort_by(f64::total_cmp);
    let mut values = Values::default();
    values.set(Metric::Connects, times.len() as f64 / window.as_secs_f64());
    values.set(Metric::FirstByteP50, stats::quantile(&times, 0.5));
    values.set(Metric::FirstByteP99, stats::quantile(&times, 0.99));
    values.set(Metric::MicrosPerConnect, used.busy.as_secs_f64() * 1e6 / all as f64);
    Ok(values)
}

#[derive(Default)]
struct Client {
    /// Connections, those before and after the window included.
    all: u64,
    /// Times to the first byte within the window.
    millis: Vec<f64>,
}

fn client(path: &Path, window: Duration) -> Result<Client> {
    let hello = hello(Service::Echo);
    let counted_from = Instant::now() + WARM_UP;
    let end = counted_from + window;
    let mut client = Client::default();
    loop {
        let start = Instant::now();
        let mut stream = open(path.target(Service::Echo), &hello)?;
        let mut greeting = [0];
        stream.read_exact(&mut greeting).context("waiting for the greeting")?;
        ensure!(greeting == [GREETING], "greeted with {greeting:?}");
        client.all += 1;
        let now = Instant::now();
        if now >= end {
            return Ok(client);
        }
        if now >= counted_from {
            client.millis.push((now - start).as_secs_f64() * 1e3);
        }
    }
}
