//! Many connections that do nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::deadline::{PATIENCE, wait_for};
use socket2::SockRef;

use super::Stage;
use super::echo::Echo;
use super::open_greeted;
use crate::memory::Held;
use crate::network::Service;
use crate::values::{Metric, Values};

/// Opens `flows` flows and measures what they hold.
pub(crate) fn run(stage: &Stage<'_>, flows: usize) -> Result<Values> {
    let before = Held::when_still(stage.processes)?;
    let ended = stage.echo.counts().ended.load(Ordering::Relaxed);
    let mut streams = open_greeted(stage.path, Service::Echo, flows)?;
    (stage.settled)(flows)?;
    let held = Held::when_still(stage.processes)?.per_flow(before, flows);
    for (number, stream) in (1..).zip(&mut streams) {
        is_alive(stream).with_context(|| format!("idle flow {number} of {flows}"))?;
    }
    close(streams, stage.echo, ended)?;

    let mut values = Values::default();
    values.set(Metric::UserPerFlow, held.user);
    values.set(Metric::KernelPerFlow, held.kernel);
    values.set(Metric::DescriptorsPerFlow, held.descriptors);
    values.set(Metric::Flows, flows as f64);
    Ok(values)
}

/// Sees that bytes still come back.
fn is_alive(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"?", "answered {answer:?}");
    Ok(())
}

/// Resets all flows, so that none lingers, and waits until the server has seen them go.
pub(super) fn close(streams: Vec<TcpStream>, echo: &Echo, ended_before: u64) -> Result<()> {
    let all = ended_before + streams.len() as u64;
    for stream in streams {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    let ended = || echo.counts().ended.load(Ordering::Relaxed);
    wait_for("all flows to end at the server", PATIENCE, || (ended() >= all).then_some(()))
        .with_context(|| format!("{} of {all} have", ended()))
}
