//! Hand-overs at random moments of random scripts, over bad networks and between ends of all kinds.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::carrier::{CARRIERS, Carrier};
use harness::daemon::{Datapath, Launch};
use harness::impair::{Badness, Impaired};
use harness::netns::Namespace;
use harness::script::Arena;
use harness::script::run::{Totals, round, wave_of};

/// Waves of 256 flows for each case.
const WAVES: u64 = 2;

fn carrier() -> Result<Carrier> {
    CARRIERS
        .into_iter()
        .find(|carrier| carrier.datapath == Datapath::Packet)
        .context("the contract has no packet")
}

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    namespace.enter(|| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("writing {path}"))
    })
}

/// Plays scripts whose seeds begin at `first`, after `prepare` has made the network what it is to be.
fn churn(first: u64, badness: Badness, prepare: impl Fn(&Arena) -> Result<()>) -> Result<()> {
    let mut arenas = vec![Arena::open(carrier()?, &Launch::new()?.quiet())?];
    let mut totals = vec![Totals::default()];
    let mut bad = Vec::new();
    for arena in &arenas {
        prepare(arena)?;
        if badness.lost + badness.doubled + badness.late > 0 {
            bad.push(Impaired::at(&arena.net().client, "edge", badness)?);
            bad.push(Impaired::at(&arena.net().backend, "edge", badness)?);
            bad.push(Impaired::at(&arena.net().edge, "client", badness)?);
            bad.push(Impaired::at(&arena.net().edge, "backend", badness)?);
        }
    }
    let mut next = wave_of(first);
    for _ in 0..WAVES {
        round(&mut arenas, next, &mut totals)?;
        next = wave_of(next + 8);
    }
    let [totals] = totals[..] else { return Ok(()) };
    let done = bad.iter().map(Impaired::done).collect::<Result<Vec<_>>>()?;
    println!("{totals:?}, network: {done:?}");
    // Some are over before they can leave their sockets.
    ensure!(totals.fallbacks * 4 < totals.flows * 3, "few flows have left their sockets: {totals:?}");
    ensure!(badness.lost == 0 || done.iter().any(|done| done[0] > 0), "no packet was lost");
    arenas.into_iter().try_for_each(Arena::close)
}

#[test]
fn scripts_survive_loss_doubling_and_reordering() -> Result<()> {
    churn(1000, Badness { lost: 2_000, doubled: 2_000, late: 10_000 }, |_| Ok(()))
}

#[test]
fn scripts_survive_much_of_it() -> Result<()> {
    churn(1100, Badness { lost: 10_000, doubled: 5_000, late: 10_000 }, |_| Ok(()))
}

#[test]
fn a_client_without_time_stamps_gets_a_server_connection_without() -> Result<()> {
    let badness = Badness { lost: 1_000, doubled: 0, late: 1_000 };
    churn(1200, badness, |arena| set(&arena.net().client, "tcp_timestamps", "0"))
}

#[test]
fn a_client_without_selective_acknowledgements_too() -> Result<()> {
    let badness = Badness { lost: 1_000, doubled: 0, late: 1_000 };
    churn(1300, badness, |arena| set(&arena.net().client, "tcp_sack", "0"))
}

#[test]
fn ends_with_other_windows_and_small_ones_understand_each_other() -> Result<()> {
    let badness = Badness { lost: 1_000, doubled: 0, late: 1_000 };
    churn(1400, badness, |arena| {
        set(&arena.net().client, "tcp_rmem", "4096 8192 16384")?;
        set(&arena.net().backend, "tcp_window_scaling", "0")
    })
}
