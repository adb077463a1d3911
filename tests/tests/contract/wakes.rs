//! Userspace sleeps while the kernel carries: it wakes for ends, errors, credit, a drain, or a timer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use harness::carrier::Carrier;
use harness::daemon::Daemon;
use harness::netns::SyscallCount;
use harness::peers::raw::transfer;
use harness::site::{RawSite, config_of};

/// Below the credit of a direction, so that no byte has to wait.
const PORTION: u64 = 256 * 1024;
const PORTIONS: u64 = 400;

/// A wake-up for so many segments would be one that nobody needs. The rest are the timers of an idle daemon.
const SEGMENTS_PER_WAKE: u64 = 20;

/// Enough that what an idle daemon does meanwhile is little beside it.
const MESSAGES: u64 = 2_000;

/// How often all threads of the daemon have gone to sleep by themselves.
fn sleeps(daemon: &Daemon) -> Result<u64> {
    let tasks = Path::new("/proc").join(daemon.pid().to_string()).join("task");
    let mut sum = 0;
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("no count of context switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// A message that is copied costs a wait for it, a read and a write. Beside these there are the timers of an idle daemon.
fn expect_few_calls(daemon: &Daemon, client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let calls = SyscallCount::of(daemon.pid())?;
    let mut message = [7; 64];
    for _ in 0..MESSAGES {
        client.write_all(&message)?;
        server.read_exact(&mut message)?;
        server.write_all(&message)?;
        client.read_exact(&mut message)?;
    }
    let each = calls.read()? as f64 / (2 * MESSAGES) as f64;
    println!("{each:.2} system calls for each message");
    // The measure can tell.
    assert!((2.0..3.5).contains(&each), "{each:.2} system calls for each message");
    Ok(())
}

#[test]
fn the_daemon_does_not_wake_for_bytes_that_the_kernel_carries() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    let (mut client, mut server) = site.flow()?;
    carrier.wait_until_carried(&site.daemon)?;
    let segments = || carrier.segments(&site.daemon);
    let (segments_before, sleeps_before) = (segments()?, sleeps(&site.daemon)?);
    for portion in 0..PORTIONS {
        transfer(&mut server, &mut client, 2 * portion, PORTION)?;
        transfer(&mut client, &mut server, 2 * portion + 1, PORTION)?;
    }
    let slept = sleeps(&site.daemon)? - sleeps_before;
    let moved = segments()? - segments_before;
    println!("{slept} wake-ups of the daemon for {moved} segments with {} bytes", 2 * PORTIONS * PORTION);
    if carrier.is_kernel() {
        assert!(slept < moved / SEGMENTS_PER_WAKE, "{slept} wake-ups for {moved} segments");
    } else {
        // Somebody has to: the measure can tell.
        assert!(slept > PORTIONS, "{slept} wake-ups for {PORTIONS} portions each way");
        expect_few_calls(&site.daemon, &mut client, &mut server)?;
    }
    drop((client, server));
    site.daemon.stop()
}
