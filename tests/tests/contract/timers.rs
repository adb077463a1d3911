//! Law 8: timers see the bytes that the kernel carries.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::carrier::{Account, Carrier};
use harness::daemon::Datapath;
use harness::deadline::dawdle;
use harness::peers::raw::{Ending, expect_ending, fill, finish, read_to_ending, transfer};
use harness::site::{RawSite, config_of, polling_hello};

use crate::site_with;

/// Several times the timeouts, in steps that are shorter than those.
const STEPS: u64 = 17;
const STEP: Duration = Duration::from_millis(300);

/// The timeout, and how much later a busy machine may notice.
const TIMEOUT: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(2);

/// Bytes of a step.
const PORTION: u64 = 1000;

#[test]
fn law_8_a_half_closed_flow_that_still_moves_is_not_timed_out() -> Result<()> {
    let site = site_with(|config| config.timeout("half_close", "1s"))?;
    let (mut client, mut server) = site.flow()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    for number in 0..STEPS {
        transfer(&mut server, &mut client, number, 1)?;
        dawdle(STEP);
    }
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.bytes_out), ("eof", STEPS), "{access:?}");
    site.daemon.stop()
}

#[test]
fn law_8_a_busy_flow_is_never_idle_and_one_that_rests_is_ended_in_order() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier).timeout("idle", "1s"))?;
    let before = carrier.account(&site.daemon)?;
    let (mut client, mut server) = site.flow()?;
    for number in 0..STEPS {
        // One direction is enough, whichever.
        if number % 2 == 0 {
            transfer(&mut server, &mut client, number, PORTION)?;
        } else {
            transfer(&mut client, &mut server, number, PORTION)?;
        }
        dawdle(STEP);
    }
    transfer(&mut server, &mut client, STEPS, PORTION)?;
    let rests = Instant::now();
    expect_ending(&mut client, Ending::Eof)?;
    let rested = rests.elapsed();
    expect_ending(&mut server, Ending::Eof)?;
    assert!(rested + STEP > TIMEOUT && rested < TIMEOUT + LATE, "ended after {rested:?}");
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.side.as_deref()), ("idle_timeout", None), "{access:?}");
    if carrier.datapath == Datapath::Auto {
        // It is copied for its first second, which counts for copy.
        let moved = |account: Account| account.kernel.map_or(0, |kernel| kernel.redirected_bytes);
        let moved = moved(carrier.account(&site.daemon)?) - moved(before);
        assert!(moved >= STEPS * PORTION / 2, "the kernel moved {moved} bytes");
    } else {
        carrier.prove(&site.daemon, &before, &[access])?;
    }
    site.daemon.stop()
}

/// What waits for a reader that does not read is neither delivered nor moving.
#[test]
fn law_8_an_idle_flow_with_bytes_that_wait_is_reset() -> Result<()> {
    let site = site_with(|config| config.timeout("idle", "1s"))?;
    let (mut client, mut server) = site.flow()?;
    fill(&mut client, u64::MAX)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.side.as_deref()), ("idle_timeout", None), "{access:?}");
    assert_eq!(read_to_ending(&mut server)?.1, Ending::Reset);
    assert_eq!(read_to_ending(&mut client)?.1, Ending::Reset);
    site.daemon.stop()
}

#[test]
fn law_8_the_list_of_flows_says_since_when_nothing_has_moved() -> Result<()> {
    let site = site_with(|config| config)?;
    let (mut client, mut server) = site.flow()?;
    site.daemon.wait_for_flow("a flow that rests", |flow| flow.idle_seconds >= 2.0)?;
    transfer(&mut client, &mut server, 1, PORTION)?;
    let flow = site.daemon.wait_for_flow("the flow", |_| true)?;
    assert!(flow.age_seconds >= 2.0 && flow.idle_seconds < 2.0, "{flow:?}");
    drop((client, server));
    site.daemon.stop()
}

/// As it gets no processor, or its virtual machine is paused.
#[test]
fn law_8_what_came_while_the_daemon_stood_still_counts_before_any_timer() -> Result<()> {
    let limit = Duration::from_secs(2);
    let site =
        site_with(|config| config.timeout("idle", "2s").timeout("hello", "2s").timeout("keepalive", "2s"))?;
    let mut flows = (0..4).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut flows {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.signal(libc::SIGSTOP)?;
    dawdle(limit);
    for (client, server) in &mut flows {
        client.write_all(b"up")?;
        server.write_all(b"down")?;
    }
    let mut late = site.connect()?;
    late.write_all(&polling_hello())?;
    dawdle(limit / 2);
    site.daemon.signal(libc::SIGCONT)?;
    for (client, server) in &mut flows {
        let (mut up, mut down) = ([0; 2], [0; 4]);
        server.read_exact(&mut up)?;
        client.read_exact(&mut down)?;
        assert_eq!((&up, &down), (b"up", b"down"));
    }
    let _server = site.polling.accept_after(&polling_hello())?;
    drop(flows);
    site.daemon.stop()
}
