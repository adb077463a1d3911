//! What a hand-over costs the daemon.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::daemon::{Daemon, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::pins::Pins;
use harness::site::RawSite;

use crate::figures::Figures;

/// How old the flows are when they leave: long enough for all of them to be there.
const AFTER: Duration = Duration::from_secs(10);

/// Flows that are opened at a time.
const AT_A_TIME: usize = 16;

/// For so long the daemon must have done nothing.
const STILL: Duration = Duration::from_millis(200);

pub(crate) fn measure(launch: &Launch, flows: usize, figures: &mut Figures) -> Result<()> {
    let pins = Pins::create()?;
    let launch = launch.clone().release();
    let site = crate::site(&launch, &pins, &format!("{}s", AFTER.as_secs()))?;
    // What the daemon does anyway is no part of it.
    let before = rested(&site.daemon)?;
    dawdle(AFTER);
    let idle = computed(&site.daemon)? - before;
    let all = open(&site, flows)?;
    let flows = all.len();
    ensure!(left(&site.daemon)? == 0, "flows have left while the last ones were opened: fewer of them");
    let before = rested(&site.daemon)?;
    // Until the youngest is old enough. To be asked would cost the daemon time, too.
    dawdle(AFTER);
    let spent = computed(&site.daemon)?.saturating_sub(before + idle);
    wait_for("all flows to leave their sockets", PATIENCE, || {
        left(&site.daemon).is_ok_and(|left| left == flows).then_some(())
    })
    .with_context(|| format!("{:?} of {flows} have", left(&site.daemon)))?;
    figures.add("daemon with no flow: µs for each second", idle.as_secs_f64() * 1e6 / AFTER.as_secs_f64());
    figures.add("hand-over: µs of the daemon for a flow", spent.as_secs_f64() * 1e6 / flows as f64);
    drop(all);
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// Opens flows, several at a time: which client belongs to which server does not matter here.
fn open(site: &RawSite, flows: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    thread::scope(|scope| {
        let some = || (0..flows / AT_A_TIME).map(|_| site.flow()).collect::<Result<Vec<_>>>();
        let opening: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(some)).collect();
        let opened = opening.into_iter().map(|one| one.join().map_err(|_| anyhow!("a client panicked"))?);
        Ok(opened.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

fn left(daemon: &Daemon) -> Result<usize> {
    let active = daemon.metrics()?.sum("snisplice_connections_active", &[("datapath", "packet")]);
    Ok(format!("{:.0}", active.abs()).parse()?)
}

/// The time that the daemon has computed, when it computes no more.
fn rested(daemon: &Daemon) -> Result<Duration> {
    let mut last = computed(daemon)?;
    loop {
        dawdle(STILL);
        let now = computed(daemon)?;
        if now - last < Duration::from_micros(500) {
            return Ok(now);
        }
        last = now;
    }
}

/// The time that all threads have computed, in user and in kernel mode.
fn computed(daemon: &Daemon) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
