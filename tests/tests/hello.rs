//! Clients whose first bytes are slow, cut up, missing, or no ClientHello at all.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use harness::daemon::Launch;
use harness::deadline::dawdle;
use harness::hello::{Hello, endless};
use harness::peers::raw::{finish, read_to_ending, reset, transfer};
use harness::site::{POLLING_NAME, RawSite, WEB_NAME, config, polling_hello};

/// Waits for the daemon to close a connection that went nowhere, and for its record.
fn expect_refusal(site: &RawSite, client: &mut TcpStream, reason: &str, result: &str) -> Result<()> {
    let (bytes, _) = read_to_ending(client)?;
    assert_eq!(bytes, 0, "an answer to a client that has no route");
    expect_verdict(site, client.local_addr()?, reason, result)
}

fn expect_verdict(site: &RawSite, client: std::net::SocketAddr, reason: &str, result: &str) -> Result<()> {
    let access = site.daemon.wait_for_access(client)?;
    assert_eq!((access.reason.as_str(), &access.upstream), (reason, &None), "{access:?}");
    site.daemon.wait_for_metric("snisplice_clienthello_total", &[("result", result)], 1.0)?;
    site.daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", reason)], 1.0)?;
    assert!(site.polling.is_untouched() && site.web.is_untouched(), "a server was connected to");
    Ok(())
}

#[test]
fn a_hello_may_come_byte_by_byte() -> Result<()> {
    let site = RawSite::start(&config())?;
    let hello = polling_hello();
    let mut client = site.connect()?;
    for byte in &hello {
        client.write_all(&[*byte])?;
        // Apart on the wire, so that the daemon sees the hello grow.
        dawdle(Duration::from_millis(1));
    }
    let mut server = site.polling.accept_after(&hello)?;
    transfer(&mut server, &mut client, 1, 100_000)?;
    drop((client, server));
    site.daemon.wait_for_metric("snisplice_clienthello_total", &[("result", "found")], 1.0)?;
    site.daemon.stop()
}

#[test]
fn a_hello_may_be_cut_into_records_and_segments() -> Result<()> {
    let site = RawSite::start(&config())?;
    for (fragment, segment) in [(1, 6), (7, 100), (100, 3), (16_384, 1400)] {
        let hello = Hello::to(POLLING_NAME).padded(2000).records_of(fragment);
        let mut client = site.connect()?;
        for piece in hello.chunks(segment) {
            client.write_all(piece)?;
        }
        site.polling.accept_after(&hello)?;
    }
    site.daemon.stop()
}

#[test]
fn bytes_behind_the_hello_follow_it() -> Result<()> {
    let site = RawSite::start(&config())?;
    let mut client = site.connect()?;
    let mut early = Hello::to(WEB_NAME).bytes();
    early.extend(vec![0x77; 50_000]);
    client.write_all(&early)?;
    let mut server = site.web.accept_after(&early)?;
    transfer(&mut client, &mut server, 1, 100_000)?;
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn a_client_that_says_nothing_is_closed() -> Result<()> {
    let site = RawSite::start(&config().timeout("hello", "500ms"))?;
    let mut client = site.connect()?;
    expect_refusal(&site, &mut client, "hello_timeout", "timeout")?;
    site.daemon.stop()
}

#[test]
fn a_client_that_stops_within_its_hello_is_closed() -> Result<()> {
    let site = RawSite::start(&config().timeout("hello", "500ms"))?;
    let mut client = site.connect()?;
    client.write_all(&polling_hello()[..100])?;
    expect_refusal(&site, &mut client, "hello_timeout", "timeout")?;
    site.daemon.stop()
}

#[test]
fn an_eof_before_or_within_the_hello_ends_the_connection() -> Result<()> {
    let site = RawSite::start(&config())?;
    for bytes in [0, 100] {
        let mut client = site.connect()?;
        client.write_all(&polling_hello()[..bytes])?;
        finish(&client)?;
        expect_refusal(&site, &mut client, "hello_eof", "eof")?;
    }
    site.daemon.wait_for_metric("snisplice_clienthello_total", &[("result", "eof")], 2.0)?;
    site.daemon.stop()
}

#[test]
fn a_reset_before_or_within_the_hello_ends_the_connection() -> Result<()> {
    let site = RawSite::start(&config())?;
    for (number, bytes) in [(1.0, 0), (2.0, 100)] {
        let mut client = site.connect()?;
        let address = client.local_addr()?;
        client.write_all(&polling_hello()[..bytes])?;
        // A connection that is reset before it is accepted may never be seen.
        site.daemon.wait_for_metric(
            "snisplice_connections_accepted_total",
            &[("listener", "tls")],
            number,
        )?;
        reset(client)?;
        expect_verdict(&site, address, "hello_reset", "reset")?;
    }
    site.daemon.wait_for_metric("snisplice_clienthello_total", &[("result", "reset")], 2.0)?;
    site.daemon.stop()
}

#[test]
fn garbage_in_a_handshake_record_is_refused() -> Result<()> {
    let site = RawSite::start(&config())?;
    let mut client = site.connect()?;
    client.write_all(&[&[22, 3, 1, 0, 64][..], &[0xff; 64]].concat())?;
    expect_refusal(&site, &mut client, "hello_broken", "broken")?;
    site.daemon.stop()
}

#[test]
fn an_endless_hello_is_refused() -> Result<()> {
    let site = RawSite::start(&config())?;
    let mut client = site.connect()?;
    // The daemon may close before all is sent.
    drop(client.write_all(&endless(40 * 1024)));
    expect_refusal(&site, &mut client, "hello_too_large", "too_large")?;
    site.daemon.stop()
}

/// As clients send that resume with a large ticket, in full records and in many small ones.
fn large_hellos() -> Vec<Vec<u8>> {
    let hello = |identity| Hello::to(POLLING_NAME).offering_identity(identity);
    vec![hello(21 * 1024).bytes(), hello(60_000).bytes(), hello(60_000).records_of(1000)]
}

#[test]
fn a_large_hello_is_refused_by_default() -> Result<()> {
    let site = RawSite::start(&config())?;
    for (hello, number) in large_hellos().iter().zip(1_u8..) {
        let mut client = site.connect()?;
        // The daemon may close before all is sent.
        drop(client.write_all(hello));
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        assert_eq!(access.reason, "hello_too_large", "{access:?}");
        site.daemon.wait_for_metric(
            "snisplice_clienthello_total",
            &[("result", "too_large")],
            number.into(),
        )?;
    }
    assert!(site.polling.is_untouched(), "a server was connected to");
    site.daemon.stop()
}

#[test]
fn a_large_hello_is_taken_where_the_limit_allows_it() -> Result<()> {
    let site = RawSite::start(&config().hello_size("64KiB"))?;
    for hello in large_hellos() {
        expect_taken(&site, &hello, 1400)?;
    }
    site.daemon.stop()
}

/// The kernel's buffers are too small for such a hello: the daemon makes room, and does not look in vain meanwhile.
#[test]
fn a_large_hello_fits_where_buffers_are_small() -> Result<()> {
    takes_large_hellos("echo '4096 8192 16384' > /proc/sys/net/ipv4/tcp_rmem && exec \"$@\"")?;
    // Without CAP_NET_ADMIN the size of a buffer can be asked for, and not forced.
    takes_large_hellos(
        "echo '4096 8192 16384' > /proc/sys/net/ipv4/tcp_rmem && exec setpriv --bounding-set -net_admin \"$@\"",
    )
}

fn takes_large_hellos(start: &'static str) -> Result<()> {
    let launch = Launch::new()?.under(&["sh", "-c", start, "sh"]);
    let site = RawSite::launch(&config().hello_size("64KiB"), &launch)?;
    let before = cpu_time(site.daemon.pid())?;
    for hello in large_hellos() {
        expect_taken(&site, &hello, 1400)?;
    }
    let spent = cpu_time(site.daemon.pid())? - before;
    // 3 clients that pause for 300 ms: who looks all the time needs most of that.
    assert!(spent < Duration::from_millis(450), "{spent:?} of CPU time");
    site.daemon.stop()
}

/// Sends all of a hello but its end in pieces, pauses, and then sends the rest and more.
fn expect_taken(site: &RawSite, hello: &[u8], piece: usize) -> Result<()> {
    let mut client = site.connect()?;
    let (head, tail) = hello.split_at(hello.len() - 10);
    for piece in head.chunks(piece) {
        client.write_all(piece)?;
    }
    dawdle(Duration::from_millis(300));
    client.write_all(tail)?;
    let mut server = site.polling.accept_after(hello)?;
    transfer(&mut client, &mut server, 1, 300_000)?;
    transfer(&mut server, &mut client, 2, 300_000)
}

/// What a process has spent so far, in user and kernel mode (proc_pid_stat(5)).
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
