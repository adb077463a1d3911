//! Law 4, for all flows together: what they hold shrinks when TCP takes more of the host's memory than it may.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use harness::MIB;
use harness::carrier::Carrier;
use harness::daemon::Datapath;
use harness::deadline::{PATIENCE, wait_for};
use harness::keyed;
use harness::peers::raw::{Ending, expect_ending, fill, finish, read_to_ending, transfer};
use harness::script::{Footprint, footprint};
use harness::site::{RawSite, config_of};

use crate::memory_alone;

const FLOWS: usize = 8;
const OFFER: u64 = 32 * MIB;

/// Bounds of the credit of a direction (docs/kernel.md).
const FLOOR: f64 = 64.0 * 1024.0;
const CEILING: f64 = 16.0 * 1024.0 * 1024.0;

fn ceiling(site: &RawSite) -> Option<f64> {
    Some(site.daemon.metrics().ok()?.samples_of("snisplice_credit_ceiling_bytes").first()?.value)
}

#[test]
fn law_4_flows_hold_less_when_memory_is_short_and_lose_nothing() -> Result<()> {
    let _memory = memory_alone();
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier).tcp_memory("1MiB"))?;
    let fillers: Vec<_> = (0..FLOWS)
        .map(|_| {
            let (mut client, server) = site.flow()?;
            Ok(thread::spawn(move || -> Result<_> { Ok((fill(&mut client, OFFER)?, client, server)) }))
        })
        .collect::<Result<_>>()?;
    let join = |filler: thread::JoinHandle<_>| filler.join().map_err(|_| anyhow!("a sender panicked"))?;
    let flows = fillers.into_iter().map(join).collect::<Result<Vec<_>>>()?;
    wait_for("the credit to shrink to its floor", PATIENCE, || (ceiling(&site)? == FLOOR).then_some(()))?;
    site.daemon.wait_for_log("flows get less credit")?;
    for (sent, mut client, mut server) in flows {
        keyed::receive(&mut server, 1, sent)?;
        // More than the floor, with no more than that on its way.
        transfer(&mut client, &mut server, 2, MIB)?;
        transfer(&mut server, &mut client, 3, MIB)?;
        finish(&client)?;
        finish(&server)?;
        expect_ending(&mut server, Ending::Eof)?;
        expect_ending(&mut client, Ending::Eof)?;
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn law_4_with_memory_to_spare_flows_have_all_their_credit() -> Result<()> {
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier).tcp_memory("1024GiB"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, OFFER)?;
    assert_eq!(ceiling(&site), Some(CEILING));
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn law_4_credit_comes_back_with_the_memory() -> Result<()> {
    /// Together they are offered far more than the budget, which is more than other tests need for long.
    const MANY: usize = 32;
    const BUDGET: &str = "128MiB";
    let _memory = memory_alone();
    let carrier = Carrier::of_environment()?;
    let site = RawSite::of(&carrier, &config_of(&carrier).tcp_memory(BUDGET))?;
    let before = footprint(&site.daemon)?;
    let flows = (0..MANY).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    if carrier.datapath == Datapath::Packet {
        return law_4_flows_without_sockets_hold_no_memory(site, before, &flows);
    }
    fill_all(&flows)?;
    wait_for("the credit to shrink", PATIENCE, || (ceiling(&site)? < CEILING).then_some(()))?;
    drop(flows);
    let patience = Duration::from_secs(60);
    wait_for("the credit to come back", patience, || (ceiling(&site)? == CEILING).then_some(()))?;
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

/// Offers each end more than fits anywhere.
fn fill_all(flows: &[(TcpStream, TcpStream)]) -> Result<()> {
    thread::scope(|scope| {
        let ends = flows.iter().flat_map(|(client, server)| [client, server]);
        let fillers: Vec<_> = ends.map(|end| scope.spawn(|| fill(&mut end.try_clone()?, OFFER))).collect();
        fillers
            .into_iter()
            .try_for_each(|filler| filler.join().map_err(|_| anyhow!("a sender panicked"))?.map(drop))
    })
}

/// What they are offered waits at its sender, so that there is no credit to shrink.
fn law_4_flows_without_sockets_hold_no_memory(
    site: RawSite,
    before: Footprint,
    flows: &[(TcpStream, TcpStream)],
) -> Result<()> {
    wait_for("all flows to leave their sockets", PATIENCE, || {
        let listed = site.daemon.flows().ok()?;
        let left = listed.iter().filter(|flow| flow.datapath.as_deref() == Some("packet")).count();
        (left == flows.len()).then_some(())
    })?;
    fill_all(flows)?;
    let held = footprint(&site.daemon)?;
    // The daemon may have opened something else meanwhile, but nothing for each flow.
    assert!(held.descriptors < before.descriptors + flows.len() / 2, "{held:?} after {before:?}");
    for (client, server) in flows {
        finish(client)?;
        finish(server)?;
        for end in [server, client] {
            assert_eq!(read_to_ending(&mut end.try_clone()?)?.1, Ending::Eof);
        }
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
