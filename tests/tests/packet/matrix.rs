//! Ends of every kind: what they offer, how they read, by what they are reached. Thousands of flows in all.

use std::env;

use anyhow::{Context as _, Result, ensure};
use harness::carrier::CARRIERS;
use harness::daemon::Launch;
use harness::impair::Badness;
use harness::netns::Topology;
use harness::pins::Pins;
use harness::script::run::{SEED, Totals, round, wave_of};
use harness::script::{Arena, WAVE};

use crate::churn::{Case, Pace, Way, churn};
use crate::set;

/// The first of the scripts' seeds: the contract plays those from 0 on.
const SEEDS: u64 = 10_000;

#[test]
fn flows_survive_loss_doubling_and_reordering() -> Result<()> {
    churn(Case::default(), |_| Ok(()))
}

#[test]
fn flows_survive_much_of_it() -> Result<()> {
    churn(Case { badness: Badness::MUCH, ..Case::default() }, |_| Ok(()))
}

#[test]
fn flows_of_some_age_leave_on_a_bad_network() -> Result<()> {
    churn(Case { badness: Badness::MUCH, after: "7ms", ..Case::default() }, |_| Ok(()))
}

#[test]
fn a_client_without_time_stamps_gets_a_server_connection_without() -> Result<()> {
    churn(Case::default(), |net| set(&net.client, "tcp_timestamps", "0"))
}

#[test]
fn a_client_without_selective_acknowledgements_too() -> Result<()> {
    churn(Case::default(), |net| set(&net.client, "tcp_sack", "0"))
}

#[test]
fn neither_end_has_time_stamps_or_selective_acknowledgements() -> Result<()> {
    churn(Case { badness: Badness::MUCH, ..Case::default() }, |net| {
        for end in [&net.client, &net.backend] {
            set(end, "tcp_timestamps", "0")?;
            set(end, "tcp_sack", "0")?;
        }
        Ok(())
    })
}

#[test]
fn servers_without_a_scale_understand_clients_with_one() -> Result<()> {
    churn(Case::default(), |net| {
        set(&net.client, "tcp_rmem", "4096 65536 131072")?;
        set(&net.backend, "tcp_window_scaling", "0")
    })
}

#[test]
fn clients_without_a_scale_understand_servers_with_a_large_one() -> Result<()> {
    churn(Case::default(), |net| {
        set(&net.client, "tcp_window_scaling", "0")?;
        set(&net.backend, "tcp_rmem", "4096 131072 67108864")
    })
}

#[test]
fn readers_that_stop_close_their_windows_while_their_flows_leave() -> Result<()> {
    churn(Case { pace: Pace::Slow, after: "5ms", badness: Badness::default(), ..Case::default() }, shrink)
}

#[test]
fn they_do_on_a_bad_network_too() -> Result<()> {
    churn(Case { pace: Pace::Slow, after: "5ms", badness: Badness::LITTLE, ..Case::default() }, shrink)
}

/// Windows that are soon closed, and senders that do not hold much.
fn shrink(net: &Topology) -> Result<()> {
    for namespace in [&net.client, &net.edge, &net.backend] {
        set(namespace, "tcp_rmem", "4096 65536 262144")?;
        set(namespace, "tcp_wmem", "4096 65536 262144")?;
    }
    Ok(())
}

#[test]
fn flows_by_ipv6_survive_the_same() -> Result<()> {
    churn(Case { way: Way::Ipv6, ..Case::default() }, |_| Ok(()))
}

#[test]
fn so_do_those_by_one_interface() -> Result<()> {
    churn(Case { way: Way::OneInterface, ..Case::default() }, |_| Ok(()))
}

#[test]
fn scripts_are_seen_as_under_copy_whenever_their_flows_leave() -> Result<()> {
    [("1ms", None), ("9ms", None), ("40ms", None)].into_iter().zip(waves(SEEDS)?).try_for_each(scripts)
}

#[test]
fn scripts_survive_a_bad_network_whenever_their_flows_leave() -> Result<()> {
    let networks =
        [("0s", Some(Badness::LITTLE)), ("1ms", Some(Badness::MUCH)), ("30ms", Some(Badness::MUCH))];
    networks.into_iter().zip(waves(SEEDS + 1000)?).try_for_each(scripts)
}

/// The waves from seed `first` on; the one of the seed that the environment names, over and over, if it names one.
fn waves(first: u64) -> Result<impl Iterator<Item = u64>> {
    let (first, step) = match env::var(SEED) {
        Ok(seed) => (seed.parse().with_context(|| format!("{SEED} is {seed:?}"))?, 0),
        Err(_) => (first, WAVE),
    };
    Ok((0..).map(move |number| wave_of(first) + number * step))
}

/// So many flows must have left their sockets for a wave to prove anything, and so many waves are played for that.
const LEFT_AT_LEAST: u64 = 24;
const WAVES_AT_MOST: u64 = 4;

/// Plays waves whose flows leave `after` that time, on a network as bad as that.
fn scripts(((after, badness), first): ((&str, Option<Badness>), u64)) -> Result<()> {
    let launch = Launch::new()?.quiet();
    let [copy, .., packet] = CARRIERS;
    ensure!(packet.name == "packet", "{packet:?}");
    let pins = Pins::create()?;
    let mut gone = Arena::open_with(packet, &launch, |config| config.packet(&pins, after))?;
    if let Some(badness) = badness {
        gone.spoil(badness)?;
    }
    let mut arenas = [Arena::open(copy, &launch)?, gone];
    let mut totals = [Totals::default(); 2];
    // On a busy machine few flows get as far as leaving their sockets before their ends have left.
    for wave in 0..WAVES_AT_MOST {
        round(&mut arenas, first + wave * WAVE, &mut totals)?;
        if totals[1].carried >= LEFT_AT_LEAST {
            break;
        }
    }
    let [_, Totals { flows, carried, .. }] = totals;
    let lost = arenas.iter().map(Arena::lost).sum::<Result<u64>>()?;
    println!(
        "{carried} of {flows} flows left their sockets, at the age of {after} or later; {lost} packets were lost"
    );
    ensure!(carried >= LEFT_AT_LEAST, "only {carried} of {flows} flows left their sockets after {after}");
    ensure!((lost > 0) == badness.is_some(), "{lost} packets were lost");
    arenas.into_iter().try_for_each(Arena::close)
}
