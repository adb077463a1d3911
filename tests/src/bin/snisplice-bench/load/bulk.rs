//! Bulk: flows that send as fast as they can, or at a given pace.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use serde::{Deserialize, Serialize};

use super::{Stage, WARM_UP, hello, listen, open, settle};
use crate::meter::Clock;
use crate::network::{Path, Service, check_congestion};
use crate::values::{Metric, Values};

/// Bytes per call of write and read.
const CHUNK: usize = 256 * 1024;

/// How often a paced sender sends.
const BEAT: Duration = Duration::from_millis(1);

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// The clients.
    Up,
    /// The servers.
    Down,
    /// Both at once.
    Both,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) flows: usize,
    pub(crate) direction: Direction,
    /// Bytes per second of each sender; as fast as it can without.
    pub(crate) pace: Option<f64>,
}

/// Flows that are set up: both ends of each.
pub(crate) struct Flows(Vec<(TcpStream, TcpStream)>);

impl Flows {
    /// Opens `count` flows. The server has swallowed the hello of each.
    pub(crate) fn open(path: &Path, count: usize) -> Result<Self> {
        let listener = listen(&path.server, Service::Bulk)?;
        let hello = hello(Service::Bulk);
        let open = |number| -> Result<_> {
            let client = open(path.target(Service::Bulk), &hello)?;
            let (mut server, _) = listener.accept().with_context(|| format!("waiting for flow {number}"))?;
            settle(&server)?;
            [&client, &server].into_iter().try_for_each(check_congestion)?;
            let mut seen = vec![0; hello.len()];
            server.read_exact(&mut seen).context("waiting for the hello")?;
            ensure!(seen == hello, "the hello arrived as another");
            Ok((client, server))
        };
        path.client.enter(|| Ok(Self((0..count).map(open).collect::<Result<_>>()?)))
    }

    /// Runs `load` on the flows, and does `during` meanwhile; what is sent must arrive. The figures are those of the
    /// time that `during` takes.
    pub(crate) fn run<'a, T>(
        &'a self,
        load: Load,
        during: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Values)> {
        let line = &Line { paced: load.pace.is_some(), ..Line::default() };
        thread::scope(|scope| {
            let (mut senders, mut receivers) = (Vec::new(), Vec::new());
            for (client, server) in &self.0 {
                let mut add = |mut from: &'a TcpStream, mut to: &'a TcpStream| {
                    senders.push(scope.spawn(move || line.send(&mut from, load.pace)));
                    receivers.push(scope.spawn(move || line.receive(&mut to)));
                };
                if load.direction != Direction::Down {
                    add(client, server);
                }
                if load.direction != Direction::Up {
                    add(server, client);
                }
            }
            let measured = line.measure(during);
            line.stop();
            let sent = join(senders).and_then(|()| line.settle());
            // Not before all has arrived: not every proxy knows half-closed connections.
            self.close();
            join(receivers)?;
            sent?;
            measured
        })
    }

    fn close(&self) {
        for (client, server) in &self.0 {
            // One that has failed is no longer connected.
            drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
        }
    }
}

fn join(threads: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    ended.into_iter().try_for_each(|ended| ended.map_err(|_| anyhow!("a peer panicked"))?)
}

/// Runs `load` for `window`.
pub(crate) fn run(stage: &Stage<'_>, load: Load) -> Result<Values> {
    let flows = Flows::open(stage.path, load.flows)?;
    let (_, values) = flows.run(load, || {
        dawdle(stage.window);
        Ok(())
    })?;
    Ok(values)
}

/// What all senders and receivers of one run share.
#[derive(Default)]
pub(super) struct Line {
    paced: bool,
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Line {
    pub(super) fn measure<T>(&self, during: impl FnOnce() -> Result<T>) -> Result<(T, Values)> {
        dawdle(WARM_UP);
        let before = self.received.load(Ordering::Relaxed);
        let clock = Clock::start()?;
        let done = during()?;
        let bytes = (self.received.load(Ordering::Relaxed) - before) as f64;
        let used = clock.stop()?;
        let mut values = Values::default();
        let rate = if self.paced { Metric::PacedRate } else { Metric::Rate };
        values.set(rate, bytes * 8.0 / 1e9 / used.elapsed.as_secs_f64());
        // A flow that stood still all the time has a rate, but no price.
        if bytes > 0.0 {
            values.set(Metric::CpuPerGigabyte, used.busy.as_secs_f64() / (bytes / 1e9));
        }
        Ok((done, values))
    }

    /// Tells the senders to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all that was sent has arrived.
    pub(super) fn settle(&self) -> Result<()> {
        let (sent, received) =
            (|| self.sent.load(Ordering::Relaxed), || self.received.load(Ordering::Relaxed));
        let arrived = wait_for("all bytes to arrive", PATIENCE, || (sent() == received()).then_some(()));
        arrived.with_context(|| format!("{} bytes were sent and {} arrived", sent(), received()))
    }

    /// Sends until it is time to stop.
    pub(super) fn send(&self, to: &mut impl Write, pace: Option<f64>) -> Result<()> {
        let chunk = vec![0x5a; CHUNK];
        let (start, mut sent) = (Instant::now(), 0_u64);
        while !self.stop.load(Ordering::Relaxed) {
            if pace.is_some_and(|pace| sent as f64 > pace * start.elapsed().as_secs_f64()) {
                thread::sleep(BEAT); // poll interval: none, the pace of the sender
                continue;
            }
            let piece = if pace.is_some() { chunk.split_at(CHUNK / 4).0 } else { &chunk };
            match to.write(piece) {
                Ok(count) => {
                    sent += count as u64;
                    self.sent.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        to.flush().context("sending the rest")
    }

    /// Receives to the end.
    pub(super) fn receive(&self, from: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => drop(self.received.fetch_add(count as u64, Ordering::Relaxed)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if self.stop.load(Ordering::Relaxed) => return Ok(()),
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }
}
