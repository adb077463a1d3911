//! One flow at a time.

use anyhow::Result;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};

use crate::{counted, site, wait_for_packets};

const MIB: u64 = 1024 * 1024;

#[test]
fn a_flow_leaves_its_sockets_and_its_bytes_arrive() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    wait_for_packets(&site.daemon, 1)?;
    let before = counted(&site.daemon)?;
    transfer(&mut client, &mut server, 2, 16 * MIB)?;
    transfer(&mut server, &mut client, 3, 16 * MIB)?;
    let after = counted(&site.daemon)?;
    assert!(after.forwarded_bytes - before.forwarded_bytes >= 32 * MIB, "{before:?} {after:?}");
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    transfer(&mut server, &mut client, 4, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.datapath.as_deref()), ("eof", Some("packet")), "{access:?}");
    assert_eq!(access.bytes_out, 17 * MIB, "{access:?}");
    site.daemon.stop()
}
