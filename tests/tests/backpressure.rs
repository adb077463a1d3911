//! Readers that stop: what is held for their flow must have a bound, and other flows must not notice.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::daemon::Datapath;
use harness::peers::raw::{Ending, finish, read_to_ending, reset, transfer};
use harness::site::{RawSite, config};

const MIB: u64 = 1024 * 1024;
/// More than all socket buffers on the way with the credit of a direction, and far less than a flood.
const BOUND: u64 = 32 * MIB;

/// Writes until the other side's buffers are full, or the bound is reached. Returns how much.
fn fill(stream: &mut TcpStream) -> Result<u64> {
    let chunk = vec![0x5a; 64 * 1024];
    let mut sent = 0;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    while sent < BOUND {
        match stream.write(&chunk) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}

/// One end of a flow does not read while the other sends.
fn a_stopped_reader_holds_up_its_sender_only(datapath: Datapath, upload: bool) -> Result<()> {
    let site = RawSite::start(&config().datapath(datapath))?;
    let (client, server) = site.flow()?;
    let (mut sender, mut stopped) = if upload { (client, server) } else { (server, client) };
    let sent = fill(&mut sender)?;
    assert!(sent < BOUND, "{sent} bytes could be sent to a reader that does not read");
    if datapath == Datapath::Sockmap {
        let kernel = site.daemon.status()?.kernel.context("the status has no kernel counters")?;
        assert!(
            kernel.passed_bytes > 0 && kernel.redirected_bytes > 0,
            "the credit did not stop it: {kernel:?}"
        );
    }

    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 3, 8 * MIB)?;
    transfer(&mut server, &mut client, 4, 8 * MIB)?;
    drop((client, server));

    finish(&sender)?;
    assert_eq!(read_to_ending(&mut stopped)?, (sent, Ending::Eof));
    drop((sender, stopped));
    site.daemon.stop()
}

/// A sender that resets while its bytes wait for a reader ends the flow: the reader is told by a reset, too.
fn a_reset_of_a_held_up_sender_ends_the_flow(datapath: Datapath, upload: bool) -> Result<()> {
    let site = RawSite::start(&config().datapath(datapath))?;
    let (client, server) = site.flow()?;
    let address = client.local_addr()?;
    let (mut sender, mut stopped) = if upload { (client, server) } else { (server, client) };
    fill(&mut sender)?;
    reset(sender)?;
    // It still reads nothing, so that only the daemon can end this.
    let access = site.daemon.wait_for_access(address)?;
    let side = if upload { "client" } else { "upstream" };
    assert_eq!((access.reason, access.side.as_deref()), (format!("{side}_reset"), Some(side)));
    assert_eq!(read_to_ending(&mut stopped)?.1, Ending::Reset);
    site.daemon.stop()
}

#[test]
fn by_copy_a_reset_of_a_held_up_sender_ends_the_flow() -> Result<()> {
    a_reset_of_a_held_up_sender_ends_the_flow(Datapath::Copy, true)?;
    a_reset_of_a_held_up_sender_ends_the_flow(Datapath::Copy, false)
}

#[test]
fn by_sockmap_a_reset_of_a_held_up_sender_ends_the_flow() -> Result<()> {
    a_reset_of_a_held_up_sender_ends_the_flow(Datapath::Sockmap, true)?;
    a_reset_of_a_held_up_sender_ends_the_flow(Datapath::Sockmap, false)
}

#[test]
fn by_copy_an_upload_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(Datapath::Copy, true)
}

#[test]
fn by_copy_a_download_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(Datapath::Copy, false)
}

#[test]
fn by_sockmap_an_upload_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(Datapath::Sockmap, true)
}

#[test]
fn by_sockmap_a_download_waits_for_its_reader() -> Result<()> {
    a_stopped_reader_holds_up_its_sender_only(Datapath::Sockmap, false)
}
