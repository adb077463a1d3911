//! Laws 2 and 3: ends and resets. Peers must see what they would see of each other without the daemon between them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::MIB;
use harness::daemon::Access;
use harness::deadline::{PATIENCE, wait_for};
use harness::keyed;
use harness::peers::raw::{Ending, expect_ending, fill, finish, is_reset, read_to_ending, reset, transfer};
use harness::site::polling_hello;

use crate::{site, site_with};

fn expect_record(access: &Access, reason: &str, bytes_in: u64, bytes_out: u64) {
    let hello = polling_hello().len() as u64;
    assert_eq!(access.reason, reason, "{access:?}");
    assert_eq!((access.bytes_in, access.bytes_out), (hello + bytes_in, bytes_out), "{access:?}");
}

#[test]
fn law_2_after_the_clients_end_the_server_can_go_on() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, MIB)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    transfer(&mut server, &mut client, 2, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    expect_record(&site.daemon.wait_for_access(client.local_addr()?)?, "eof", MIB, MIB);
    site.daemon.stop()
}

#[test]
fn law_2_after_the_servers_end_the_client_can_go_on() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut server, &mut client, 1, MIB)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    transfer(&mut client, &mut server, 2, MIB)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    expect_record(&site.daemon.wait_for_access(client.local_addr()?)?, "eof", MIB, MIB);
    site.daemon.stop()
}

#[test]
fn law_2_a_client_can_end_right_after_its_hello() -> Result<()> {
    let site = site()?;
    for _ in 0..20 {
        let hello = polling_hello();
        let mut client = site.connect()?;
        client.write_all(&hello)?;
        finish(&client)?;
        let mut server = site.polling.accept_after(&hello)?;
        expect_ending(&mut server, Ending::Eof)?;
        transfer(&mut server, &mut client, 2, MIB)?;
        finish(&server)?;
        expect_ending(&mut client, Ending::Eof)?;
        expect_record(&site.daemon.wait_for_access(client.local_addr()?)?, "eof", 0, MIB);
    }
    site.daemon.stop()
}

#[test]
fn law_2_an_end_right_after_the_last_byte_loses_none() -> Result<()> {
    let site = site()?;
    for bytes in [0, 1, 1000, 300_000] {
        let (mut client, mut server) = site.flow()?;
        keyed::send(&mut server, 1, bytes)?;
        drop(server);
        keyed::receive(&mut client, 1, bytes)?;
        expect_ending(&mut client, Ending::Eof)?;
    }
    site.daemon.stop()
}

/// Writes until the other side's reset arrives.
fn write_until_reset(stream: &mut TcpStream) -> Result<()> {
    let chunk = vec![0; 64 * 1024];
    loop {
        match stream.write_all(&chunk) {
            Ok(()) => {}
            Err(error) if is_reset(&error) => return Ok(()),
            Err(error) => ensure!(false, "neither progress nor a reset: {error}"),
        }
    }
}

#[test]
fn law_3_a_clients_reset_in_mid_transfer_is_a_reset_for_the_server() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?;
    let sender = std::thread::spawn(move || write_until_reset(&mut server));
    client.read_exact(&mut vec![0; 1_000_000])?;
    reset(client)?;
    sender.join().expect("the sender panicked")?;
    assert_eq!(site.daemon.wait_for_access(address)?.reason, "client_reset");
    site.daemon.stop()
}

#[test]
fn law_3_a_reset_of_an_idle_flow_is_a_reset() -> Result<()> {
    let site = site()?;
    for _ in 0..20 {
        let (mut client, mut server) = site.flow()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        let address = client.local_addr()?;
        reset(client)?;
        expect_ending(&mut server, Ending::Reset)?;
        expect_record(&site.daemon.wait_for_access(address)?, "client_reset", 1000, 0);
    }
    site.daemon.stop()
}

#[test]
fn law_3_bytes_before_a_servers_reset_are_delivered() -> Result<()> {
    const BYTES: usize = 64 * 1024;
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    keyed::send(&mut server, 1, BYTES as u64)?;
    let mut seen = vec![0; BYTES];
    wait_for("all bytes to lie in the client's queue", PATIENCE, || {
        (client.peek(&mut seen).ok()? == BYTES).then_some(())
    })?;
    reset(server)?;
    keyed::receive(&mut client, 1, BYTES as u64)?;
    expect_ending(&mut client, Ending::Reset)?;
    expect_record(&site.daemon.wait_for_access(client.local_addr()?)?, "upstream_reset", 0, BYTES as u64);
    site.daemon.stop()
}

/// The kernel throws away an end that the server did not acknowledge, and that must not be taken for a byte.
#[test]
fn law_3_what_a_server_read_before_its_reset_is_counted() -> Result<()> {
    let site = site()?;
    let hello = polling_hello();
    for _ in 0..300 {
        let (mut client, server) = site.flow()?;
        let address = client.local_addr()?;
        let end = std::thread::spawn(move || -> Result<()> {
            client.write_all(b"x")?;
            // It may have been reset by then.
            drop(finish(&client));
            read_to_ending(&mut client).map(drop)
        });
        let mut byte = [0];
        (&server).read_exact(&mut byte)?;
        reset(server)?;
        end.join().expect("the client panicked")?;
        let access = site.daemon.wait_for_access(address)?;
        assert_eq!((access.bytes_in, access.bytes_out), (hello.len() as u64 + 1, 0), "{access:?}");
    }
    site.daemon.stop()
}

#[test]
fn law_3_a_servers_reset_in_mid_transfer_is_a_reset_for_the_client() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?;
    let sender = std::thread::spawn(move || write_until_reset(&mut client));
    server.read_exact(&mut vec![0; 1_000_000])?;
    reset(server)?;
    sender.join().expect("the sender panicked")?;
    assert_eq!(site.daemon.wait_for_access(address)?.reason, "upstream_reset");
    site.daemon.stop()
}

#[test]
fn law_2_a_flow_does_not_stay_half_closed_for_ever() -> Result<()> {
    // Longer than anything else that a flow waits for: other alarms must not put it off.
    let site = site_with(|config| config.timeout("half_close", "3s"))?;
    let (mut client, mut server) = site.flow()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    let (bytes, _) = read_to_ending(&mut client)?;
    assert_eq!(bytes, 0);
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!(access.reason, "half_close_timeout", "{access:?}");
    let error = server.write_all(b"late").and_then(|()| server.read(&mut [0]).map(drop));
    assert!(
        error.is_err_and(|error| error.kind() != ErrorKind::WouldBlock),
        "the server's side is still open"
    );
    site.daemon.stop()
}

/// A target that never drains: its sender has ended in order, but its bytes cannot get there.
fn never_drained(upload: bool) -> Result<()> {
    // Once a flow has left its sockets the end waits in its sender until there is room, and nobody knows of it.
    let site = site_with(|config| config.timeout("half_close", "1s").leaving("10s"))?;
    let (client, server) = site.flow()?;
    let address = client.local_addr()?;
    let (mut sender, mut stopped) = if upload { (client, server) } else { (server, client) };
    // The daemon can take all of it, with the end, but cannot get rid of it.
    socket2::SockRef::from(&stopped).set_recv_buffer_size(64 * 1024)?;
    // Windows and credit are small at first.
    let all = 128 * 1024;
    let sent = fill(&mut sender, all)?;
    assert_eq!(sent, all);
    finish(&sender)?;
    // The receiver's kernel takes a segment now and then all the same, and each begins the second anew.
    let records = || site.daemon.access().into_iter().find(|access| access.client == address.to_string());
    let access = wait_for("the flow to be given up", Duration::from_secs(60), records)?;
    assert_eq!(access.reason, "half_close_timeout");
    let (read, ending) = read_to_ending(&mut stopped)?;
    assert_eq!(ending, Ending::Reset, "{read} of {sent} bytes look complete");
    site.daemon.stop()
}

#[test]
fn law_2_a_reader_that_never_drains_an_upload_gets_a_reset_and_no_end() -> Result<()> {
    never_drained(true)
}

#[test]
fn law_2_a_reader_that_never_drains_a_download_gets_a_reset_and_no_end() -> Result<()> {
    never_drained(false)
}
