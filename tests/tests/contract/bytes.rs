//! Laws 1 and 5: every byte arrives once and in order, and is counted as the peers count it.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use harness::MIB;
use harness::carrier::Carrier;
use harness::daemon::{Access, Daemon, Datapath};
use harness::deadline::slowness;
use harness::keyed;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::site::{RawSite, config_of, polling_hello};

/// A full TLS record, with its header.
const RECORD: u64 = 16_384 + 5;

/// For a gibibyte on a machine that does something else as well.
const LONG: Duration = Duration::from_secs(100);

/// Ends both directions and returns the record of the connection.
fn settle(daemon: &Daemon, mut client: TcpStream, mut server: TcpStream) -> Result<Access> {
    let address = client.local_addr()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    daemon.wait_for_access(address)
}

/// Sends in both directions at the same time.
fn both_ways(client: &TcpStream, server: &TcpStream, bytes: [u64; 2]) -> Result<()> {
    thread::scope(|scope| {
        let up = scope.spawn(|| transfer(&mut client.try_clone()?, &mut server.try_clone()?, 1, bytes[0]));
        transfer(&mut server.try_clone()?, &mut client.try_clone()?, 2, bytes[1])?;
        up.join().map_err(|_| anyhow!("a sender panicked"))?
    })
}

fn expect(access: &Access, bytes_in: u64, bytes_out: u64) {
    assert_eq!((access.bytes_in, access.bytes_out), (bytes_in, bytes_out), "{access:?}");
    assert_eq!(access.reason, "eof", "{access:?}");
}

#[test]
fn law_1_all_sizes_arrive_and_law_5_are_counted_in_both_directions_at_once() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    let before = carrier.account(&site.daemon)?;
    let mut records = Vec::new();
    let hello = polling_hello().len() as u64;
    for bytes in [0, 1, RECORD - 1, RECORD, RECORD + 1, 16 * MIB] {
        let (client, server) = site.flow()?;
        both_ways(&client, &server, [bytes, bytes])?;
        let address = client.local_addr()?.to_string();
        let listed = |flow: &harness::daemon::Flow| (flow.bytes_in, flow.bytes_out) == (hello + bytes, bytes);
        site.daemon
            .wait_for_flow("the flow with its bytes", |flow| flow.client == address && listed(flow))?;
        if carrier.datapath == Datapath::Packet {
            // On a quick machine the bytes are there before it is old enough to leave.
            carrier.wait_until_carried(&site.daemon)?;
        }
        let access = settle(&site.daemon, client, server)?;
        expect(&access, hello + bytes, bytes);
        records.push(access);

        let (client, server) = site.legacy_flow()?;
        both_ways(&client, &server, [bytes, bytes])?;
        let access = settle(&site.daemon, client, server)?;
        expect(&access, bytes, bytes);
        assert_eq!((access.listener.as_str(), &access.sni), ("legacy", &None));
        records.push(access);
    }
    site.daemon.wait_for_idle()?;
    // Of the largest, whose readers check each byte, the kernel may carry little: they are behind nearly all the time.
    carrier.prove_share(&site.daemon, &before, &records, 1000)?;
    site.daemon.stop()
}

#[test]
fn law_1_bytes_that_were_queued_before_the_hand_over_come_first() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    let before = carrier.account(&site.daemon)?;
    let mut records = Vec::new();
    let hello = polling_hello();
    for bytes in [1, RECORD, 60_000] {
        let mut client = site.connect()?;
        let mut first = hello.clone();
        keyed::send(&mut first, 1, bytes)?;
        client.write_all(&first)?;
        let mut server = site.polling.accept_after(&hello)?;
        keyed::receive(&mut server, 1, bytes)?;
        if carrier.datapath == Datapath::Packet {
            carrier.wait_until_carried(&site.daemon)?;
        }
        transfer(&mut server, &mut client, 2, bytes)?;
        let access = settle(&site.daemon, client, server)?;
        expect(&access, first.len() as u64, bytes);
        records.push(access);
    }
    carrier.prove(&site.daemon, &before, &records)?;
    site.daemon.stop()
}

/// A gibibyte, or as many MiB as `SNISPLICE_TEST_BULK` says: an emulated machine is slow.
fn bulk() -> Result<u64> {
    std::env::var("SNISPLICE_TEST_BULK").map_or(Ok(1024 * MIB), |mib| Ok(mib.parse::<u64>()? * MIB))
}

#[test]
fn law_1_a_gibibyte_arrives_each_way() -> Result<()> {
    let bulk = bulk()?;
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier))?;
    let before = carrier.account(&site.daemon)?;
    let (client, server) = site.legacy_flow()?;
    let began = Instant::now();
    both_ways(&client, &server, [bulk, bulk])?;
    assert!(began.elapsed() < LONG * slowness(), "it took {:?}", began.elapsed());
    let access = settle(&site.daemon, client, server)?;
    expect(&access, bulk, bulk);
    // Readers that check each byte, both at once on the host of their writers, are behind nearly all the time.
    carrier.prove_share(&site.daemon, &before, &[access], u64::MAX)?;
    site.daemon.stop()
}
