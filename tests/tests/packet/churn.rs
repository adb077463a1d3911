//! Hand-overs while bytes are on their way in both directions, over bad networks and between ends of all kinds. Every byte is
//! checked by its place in its stream.

use std::fs;
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use harness::impair::{Badness, Impaired};
use harness::netns::Namespace;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::site::RawSite;

use crate::{counted, site};

/// Flows of a case, and how many at a time.
const FLOWS: u64 = 96;
const AT_A_TIME: u64 = 8;

/// Sizes of what is sent in turn, up and down: from a byte to more than any window at first.
const SIZES: [u64; 8] = [1, 700, 30_000, 3, 200_000, 1449, 70_000, 12];

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    namespace.enter(|| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("writing {path}"))
    })
}

/// One flow: both directions at once, in rounds, so that it leaves its sockets in one of them.
fn play((client, server): (TcpStream, TcpStream), number: u64) -> Result<()> {
    let from = usize::try_from(number)? % SIZES.len();
    for round in 0..SIZES.len() as u64 {
        let size =
            |by: usize| SIZES.iter().cycle().nth(from + usize::try_from(round).unwrap_or(0) + by).copied();
        let (up, down) = (size(0).unwrap_or(1), size(3).unwrap_or(1));
        let sides = || Ok::<_, anyhow::Error>((client.try_clone()?, server.try_clone()?));
        thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let (mut client, mut server) = sides()?;
                transfer(&mut client, &mut server, 2 * round, up)
            });
            let (mut client, mut server) = sides()?;
            transfer(&mut server, &mut client, 2 * round + 1, down)?;
            sent.join().map_err(|_| anyhow!("a sender panicked"))?
        })
        .with_context(|| format!("flow {number}, round {round}"))?;
    }
    let (mut client, mut server) = (client, server);
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)
}

/// Plays many flows, after `prepare` has made the network what it is to be.
fn churn(badness: Badness, prepare: impl FnOnce(&RawSite) -> Result<()>) -> Result<()> {
    let site = site()?;
    prepare(&site)?;
    let net = &site.net;
    let ends = [(&net.client, "edge"), (&net.backend, "edge"), (&net.edge, "client"), (&net.edge, "backend")];
    let bad = ends.map(|(namespace, interface)| Impaired::at(namespace, interface, badness));
    let bad = bad.into_iter().collect::<Result<Vec<_>>>()?;
    let mut failures = Vec::new();
    for batch in 0..FLOWS / AT_A_TIME {
        // One after the other: which connection is whose is known by their order only.
        let numbers = batch * AT_A_TIME..(batch + 1) * AT_A_TIME;
        let flows = numbers.map(|number| Ok((number, site.legacy_flow()?))).collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let playing: Vec<_> =
                flows.into_iter().map(|(number, flow)| scope.spawn(move || play(flow, number))).collect();
            failures.extend(playing.into_iter().filter_map(|one| match one.join() {
                Ok(result) => result.err(),
                Err(_) => Some(anyhow!("a flow panicked")),
            }));
        });
    }
    if let Some(first) = failures.first() {
        bail!("{} of {FLOWS} flows, such as {first:#}", failures.len());
    }
    let done = bad.iter().map(Impaired::done).collect::<Result<Vec<_>>>()?;
    site.daemon.wait_for_idle()?;
    let gone =
        site.daemon.access().iter().filter(|record| record.datapath.as_deref() == Some("packet")).count();
    println!("{gone} of {FLOWS} flows left their sockets; {:?}; network: {done:?}", counted(&site.daemon)?);
    ensure!(gone as u64 * 2 > FLOWS, "only {gone} of {FLOWS} flows left their sockets");
    ensure!(badness.lost == 0 || done.iter().any(|done| done[0] > 0), "no packet was lost: {done:?}");
    site.daemon.stop()
}

const BAD: Badness = Badness { lost: 1_000, doubled: 1_000, late: 5_000, unsparing: false };

#[test]
fn flows_survive_loss_doubling_and_reordering() -> Result<()> {
    churn(BAD, |_| Ok(()))
}

#[test]
fn flows_survive_much_of_it() -> Result<()> {
    churn(Badness { lost: 10_000, doubled: 5_000, late: 10_000, unsparing: false }, |_| Ok(()))
}

#[test]
fn a_client_without_time_stamps_gets_a_server_connection_without() -> Result<()> {
    churn(BAD, |site| set(&site.net.client, "tcp_timestamps", "0"))
}

#[test]
fn a_client_without_selective_acknowledgements_too() -> Result<()> {
    churn(BAD, |site| set(&site.net.client, "tcp_sack", "0"))
}

#[test]
fn ends_with_other_windows_understand_each_other() -> Result<()> {
    churn(BAD, |site| {
        set(&site.net.client, "tcp_rmem", "4096 65536 131072")?;
        set(&site.net.backend, "tcp_window_scaling", "0")
    })
}
