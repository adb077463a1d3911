//! Urgent bytes (`MSG_OOB`), which any peer can send: they are bytes of the stream like all others, at the place where they were
//! sent. No datapath loses one, counts one that it did not carry, or waits for one at the end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use harness::carrier::Carrier;
use harness::daemon::{Config, Datapath, Launch, WITHOUT_BPF};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Topology, backend, edge, unsent};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish};
use harness::site::{POLLING_PORT, RawSite, SHARED_PORT, config_of, polling_hello};
use socket2::SockRef;

/// Sends bytes of which the last one is urgent.
fn send_urgent(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let sent = SockRef::from(stream).send_out_of_band(bytes)?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn expect_bytes(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes)?;
    ensure!(bytes == expected, "{bytes:?} came in place of {expected:?}");
    Ok(())
}

/// Urgent bytes in the middle, alone, one behind the other. Returns how many bytes those were.
fn exchange(from: &mut TcpStream, to: &mut TcpStream) -> Result<u64> {
    let mut all = Vec::new();
    for (part, urgent) in [
        (&b"ordinary, then urgent"[..], true),
        (b"and on", false),
        (b"!", true),
        (b"?", true),
        (b"the rest", false),
        (&[7; 100_000], true),
        (&[8; 100_000], false),
    ] {
        if urgent {
            send_urgent(from, part)?;
        } else {
            from.write_all(part)?;
        }
        all.extend_from_slice(part);
    }
    expect_bytes(to, &all)?;
    Ok(all.len() as u64)
}

/// A hello sent as `send` does; urgent bytes both ways before the flow is handed over, and after; ends right behind one.
fn urgent_bytes_arrive(
    site: &RawSite,
    carrier: &Carrier,
    send: fn(&mut TcpStream, &[u8]) -> Result<()>,
) -> Result<()> {
    let hello = polling_hello();
    let mut client = site.connect()?;
    send(&mut client, &hello)?;
    let mut server = site.polling.accept_after(&hello)?;
    for end in [&client, &server] {
        SockRef::from(end).set_out_of_band_inline(true)?;
    }
    let (mut up, mut down) = (hello.len() as u64, 0);
    for handed_over in [false, true] {
        if handed_over {
            carrier.wait_until_carried(&site.daemon)?;
        }
        for _ in 0..3 {
            up += exchange(&mut client, &mut server)?;
            down += exchange(&mut server, &mut client)?;
        }
    }
    for (from, to) in [(&client, &server), (&server, &client)] {
        send_urgent(from, b"the last byte is urgent.")?;
        finish(from)?;
        let mut bytes = Vec::new();
        (&*to).read_to_end(&mut bytes)?;
        ensure!(bytes == b"the last byte is urgent.", "{bytes:?}");
    }
    (up, down) = (up + 24, down + 24);
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.bytes_in, access.bytes_out), ("eof", up, down), "{access:?}");
    assert_eq!(access.datapath.as_deref(), Some(carrier.name));
    drop((client, server));
    site.daemon.wait_for_idle()
}

#[test]
fn law_1_urgent_bytes_stay_where_they_were_sent() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    urgent_bytes_arrive(&site, &carrier, |client, hello| Ok(client.write_all(hello)?))?;
    // The last byte of the hello is urgent.
    urgent_bytes_arrive(&site, &carrier, |client, hello| send_urgent(client, hello))?;
    // The mark is within the hello.
    urgent_bytes_arrive(&site, &carrier, |client, hello| {
        let (head, tail) = hello.split_at(hello.len() / 2);
        send_urgent(client, head)?;
        Ok(client.write_all(tail)?)
    })?;
    site.daemon.stop()
}

/// An end right behind an urgent byte that nothing follows, from a peer that sends nothing else.
#[test]
fn law_2_an_end_behind_an_urgent_byte_is_passed_on() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    let (mut client, mut server) = site.legacy_flow()?;
    for end in [&client, &server] {
        SockRef::from(end).set_out_of_band_inline(true)?;
    }
    send_urgent(&client, b"!")?;
    finish(&client)?;
    expect_bytes(&mut server, b"!")?;
    expect_ending(&mut server, Ending::Eof)?;
    send_urgent(&server, b"!")?;
    finish(&server)?;
    expect_bytes(&mut client, b"!")?;
    expect_ending(&mut client, Ending::Eof)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    assert_eq!((access.reason.as_str(), access.bytes_in, access.bytes_out), ("eof", 1, 1), "{access:?}");
    site.daemon.stop()
}

/// The client waits for an answer to all that it has sent: an urgent byte, and more behind it than one read of the daemon takes. All of it
/// has come before the server accepts, so that nothing comes later that would wake the daemon.
#[test]
fn law_1_an_urgent_byte_before_a_long_queue_holds_nothing_up() -> Result<()> {
    const QUEUE: usize = 600_000;
    let net = Topology::create()?;
    net.edge.enter(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 4194304 4194304")?))?;
    let config = Config::new()
        .listen_to("all", "[::]:443", "all")
        .upstream("all", backend(POLLING_PORT))
        .hold("60s")
        .datapath(Datapath::Copy);
    // The self-test of sockmap takes seconds with such buffers.
    let daemon = Launch::new()?.under(&WITHOUT_BPF).start(&net.edge, &config)?;
    let mut client = net.client.connect(edge(SHARED_PORT))?;
    send_urgent(&client, b"urgent!")?;
    client.write_all(&[7; QUEUE])?;
    wait_for("all bytes to be acknowledged", PATIENCE, || (unsent(&client).ok()? == 0).then_some(()))?;
    let listener = RawListener::bind(&net.backend, backend(POLLING_PORT))?;
    let mut server = listener.accept()?;
    SockRef::from(&server).set_out_of_band_inline(true)?;
    expect_bytes(&mut server, b"urgent!")?;
    let mut rest = vec![0; QUEUE];
    server.read_exact(&mut rest)?;
    ensure!(rest.iter().all(|byte| *byte == 7), "other bytes came");
    drop((client, server));
    daemon.wait_for_idle()?;
    daemon.stop()
}
