//! Law 8: timers see the bytes that the kernel carries.

use std::time::Duration;

use anyhow::Result;
use harness::deadline::dawdle;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};

use crate::site_with;

/// Three times the timeout, in steps that are shorter than it.
const STEPS: u64 = 10;
const STEP: Duration = Duration::from_millis(300);

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
