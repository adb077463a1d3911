//! Flows that leave their sockets and get some again, over and over, while bytes go both ways. Every byte is checked by its
//! place in its stream.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::daemon::Daemon;
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::impair::{Badness, Impaired};
use harness::peers::raw::{Ending, expect_ending, finish, transfer};

use crate::{counted, site};

/// Flows, and how often each is to come back at least.
const FLOWS: u64 = 32;
const TURNS: u64 = 5;

/// For so long it is tried.
const LIMIT: Duration = Duration::from_secs(100);

/// Most that is sent at a time.
const CHUNK: u64 = 300_000;

/// Sends and checks both ways until it is `over`, and then ends in order. Some flows pause now and then. Says how many bytes
/// there were.
fn play((client, server): (TcpStream, TcpStream), number: u64, over: &AtomicBool) -> Result<u64> {
    let (mut bytes, mut round) = (0, 0_u64);
    while !over.load(Ordering::Relaxed) {
        let (up, down) = (CHUNK / (1 + (number + round) % 9), CHUNK / (1 + (3 * number + round) % 7));
        let stream = (number << 32) | (2 * round);
        let sides = || Ok::<_, anyhow::Error>((client.try_clone()?, server.try_clone()?));
        thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let (mut client, mut server) = sides()?;
                transfer(&mut client, &mut server, stream, up)
            });
            let (mut client, mut server) = sides()?;
            transfer(&mut server, &mut client, stream + 1, down)?;
            sent.join().map_err(|_| anyhow!("a sender panicked"))?
        })
        .with_context(|| format!("flow {number}, round {round}"))?;
        bytes += up + down;
        round += 1;
        if number.is_multiple_of(4) {
            dawdle(Duration::from_millis(7 * (number + round) % 50));
        }
    }
    let (mut client, mut server) = (client, server);
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof).with_context(|| format!("flow {number}"))?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof).with_context(|| format!("flow {number}"))?;
    Ok(bytes)
}

/// Orders all of `ids` what `verb` says: those that have obeyed. Some have something in their way now and then.
fn execute(daemon: &Daemon, verb: &str, ids: &[u64]) -> Result<Vec<u64>> {
    let texts: Vec<String> = ids.iter().map(u64::to_string).collect();
    let arguments: Vec<&str> = std::iter::once("--json").chain(texts.iter().map(String::as_str)).collect();
    let said: serde_json::Value = serde_json::from_str(&daemon.command(verb, &arguments)?.stdout)?;
    let done = said.get("done").and_then(|done| done.as_array()).context("no list of those that have")?;
    Ok(done.iter().filter_map(serde_json::Value::as_u64).collect())
}

/// Sends all flows there and back until each has come back often enough. Says how often each has.
fn alternate(daemon: &Daemon, ids: &[u64]) -> Result<HashMap<u64, u64>> {
    let mut turns: HashMap<u64, u64> = ids.iter().map(|id| (*id, 0)).collect();
    let begun = Instant::now();
    while turns.values().any(|turns| *turns < TURNS) && begun.elapsed() < LIMIT {
        let gone = execute(daemon, "offload", ids)?;
        for id in execute(daemon, "restore", &gone)? {
            *turns.entry(id).or_default() += 1;
        }
    }
    Ok(turns)
}

fn churn(badness: Badness) -> Result<()> {
    let site = site()?;
    let bad = Impaired::everywhere(&site.net, badness)?;
    let mut flows = (0..FLOWS).map(|_| site.legacy_flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut flows {
        // Not before its first byte.
        transfer(client, server, 1, 1)?;
    }
    site.daemon.wait_for_packets(usize::try_from(FLOWS)?)?;
    let ids: Vec<u64> = site.daemon.flows()?.iter().map(|flow| flow.id).collect();
    let (over, before) = (AtomicBool::new(false), counted(&site.daemon)?);
    let (turns, played) = thread::scope(|scope| {
        let over = &over;
        let players: Vec<_> = flows
            .into_iter()
            .zip(0..)
            .map(|(flow, number)| scope.spawn(move || play(flow, number, over)))
            .collect();
        let turns = alternate(&site.daemon, &ids);
        over.store(true, Ordering::Relaxed);
        let played: Vec<Result<u64>> = players
            .into_iter()
            .map(|player| player.join().unwrap_or_else(|_| Err(anyhow!("a flow panicked"))))
            .collect();
        (turns, played)
    });
    let bytes = played.into_iter().sum::<Result<u64>>()?;
    let turns = turns?;
    site.daemon.wait_for_idle()?;
    let metrics = site.daemon.metrics()?;
    let moved = |what| metrics.sum("snisplice_packet_moves_total", &[("what", what)]);
    let (left, returned, failed) = (moved("offloaded"), moved("restored"), moved("restore_failed").abs());
    let (all, least) = (turns.values().sum::<u64>(), turns.values().min().copied().unwrap_or(0));
    let after = counted(&site.daemon)?;
    let done = bad.iter().map(Impaired::done).collect::<Result<Vec<_>>>()?;
    println!(
        "{FLOWS} flows left {left} times and came back {returned} times ({failed} in vain), each at least {least} times; \
         {bytes} bytes, {} of them past the sockets; {} packets held; network: {done:?}",
        after.forwarded_bytes - before.forwarded_bytes,
        after.held - before.held,
    );
    ensure!(least >= TURNS, "a flow came back {least} times only: {turns:?}");
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let all = all as f64;
    ensure!(returned >= all && left >= all, "{left} {returned} {all}");
    ensure!(after.forwarded_bytes > before.forwarded_bytes, "no byte went past the sockets");
    ensure!(badness.lost == 0 || done.iter().any(|done| done[0] > 0), "no packet was lost: {done:?}");
    let records = wait_for("all records", PATIENCE, || {
        Some(site.daemon.access()).filter(|records| records.len() as u64 >= FLOWS)
    })?;
    ensure!(records.len() as u64 == FLOWS, "{} records", records.len());
    ensure!(records.iter().all(|record| record.reason == "eof"), "{records:?}");
    let said: u64 = records.iter().map(|record| record.bytes_in + record.bytes_out).sum();
    ensure!(said == bytes + FLOWS, "the records have {said} bytes of {bytes} and one more of each");
    site.daemon.stop()
}

#[test]
fn flows_go_there_and_back_again_without_a_wrong_byte() -> Result<()> {
    churn(Badness::default())
}

#[test]
fn also_where_packets_are_lost_doubled_and_reordered() -> Result<()> {
    churn(Badness::LITTLE)
}
