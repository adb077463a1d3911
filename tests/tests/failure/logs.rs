//! Nobody reads the log: no connection may notice.

use anyhow::{Context as _, Result, ensure};
use harness::daemon::{Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::peers::raw::transfer;
use harness::site::{RawSite, config};
use serde_json::Value;

const CONNECTIONS: usize = 200;
/// As many connections as fill the daemon's queue several times over, if that is what it takes.
const FLOOD_MAX: usize = 100_000;
const DROPPED: &str = "snisplice_log_dropped_total";

fn dropped(site: &RawSite) -> Result<u64> {
    Ok(site.daemon.metrics()?.sum(DROPPED, &[]).to_string().parse()?)
}

/// Connections that are over at once, each with an access record.
fn knock(site: &RawSite, times: usize) -> Result<()> {
    (0..times).try_for_each(|_| site.connect().map(drop))
}

fn reported(line: &str) -> Option<u64> {
    let record: Value = serde_json::from_str(line).ok()?;
    record.get("message")?.as_str()?.starts_with("log records were dropped").then_some(())?;
    record.get("records")?.as_u64()
}

#[test]
fn a_log_that_nobody_reads_stops_no_connection_and_not_the_end() -> Result<()> {
    let mut site = RawSite::launch(&config().datapath(Datapath::Copy), &Launch::new()?.unread())?;
    let (mut live_client, mut live_server) = site.flow()?;
    for number in 0..CONNECTIONS {
        let (mut client, mut server) = site.flow().with_context(|| format!("connection {number}"))?;
        transfer(&mut client, &mut server, 1, 1000)?;
        transfer(&mut live_server, &mut live_client, 2, 1000)?;
    }
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[], 200.0)?;
    assert_eq!(dropped(&site)?, 0, "so many records are kept until the log is read again");

    let mut knocks = 0;
    while knocks < FLOOD_MAX && dropped(&site)? == 0 {
        knock(&site, 500)?;
        knocks += 500;
    }
    ensure!(dropped(&site)? > 0, "no record was dropped after {knocks} connections");
    transfer(&mut live_client, &mut live_server, 3, 100_000)?;

    // It is read again.
    site.daemon.read_log();
    wait_for("the log to say what it lacks", PATIENCE, || {
        let said: u64 = site.daemon.log().iter().filter_map(|line| reported(line)).sum();
        (said == dropped(&site).ok()?).then_some(())
    })?;
    let access = site.daemon.access();
    let served = access.iter().filter(|record| record.route.as_deref() == Some("polling")).count();
    assert_eq!(served, CONNECTIONS, "the first records are not those that are dropped");
    transfer(&mut live_client, &mut live_server, 4, 100_000)?;
    drop((live_client, live_server));
    site.daemon.stop()
}

#[test]
fn a_daemon_whose_log_nobody_reads_ends_in_time() -> Result<()> {
    let mut site = RawSite::launch(&config().datapath(Datapath::Copy), &Launch::new()?.unread())?;
    for _ in 0..40 {
        drop(site.flow()?);
    }
    site.daemon.wait_for_idle()?;
    site.daemon.signal(libc::SIGTERM)?;
    let status = site.daemon.wait_for_exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    Ok(())
}
