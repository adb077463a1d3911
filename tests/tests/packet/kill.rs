//! Flows without sockets that an operator ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::deadline::{PATIENCE, wait_for};
use harness::impair::{Badness, Impaired};
use harness::peers::raw::{Ending, expect_ending, read_to_ending, transfer};

use crate::site;

/// Resets, and what is asked and answered about them, get lost: both ends are told all the same. They say nothing by
/// themselves, so that only what is sent again can tell them.
#[test]
fn the_reset_is_sent_again_until_it_has_come() -> Result<()> {
    const FLOWS: usize = 12;
    let site = site()?;
    let mut flows = (0..FLOWS).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut flows {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(FLOWS)?;
    // A quarter of all packets. Each of 24 peers is told up to 8 times, so that one run in 2,000 at most fails by chance.
    let bad = Badness { lost: 250_000, unsparing: true, ..Badness::default() };
    let net = &site.net;
    let ends = [(&net.client, "edge"), (&net.backend, "edge")];
    let impaired = ends.map(|(namespace, interface)| Impaired::at(namespace, interface, bad));
    let impaired = impaired.into_iter().collect::<Result<Vec<_>>>()?;
    let ids: Vec<u64> = site.daemon.flows()?.iter().map(|flow| flow.id).collect();
    site.daemon.order("kill", &ids)?;
    for (client, server) in &mut flows {
        expect_ending(client, Ending::Reset)?;
        expect_ending(server, Ending::Reset)?;
    }
    let lost = impaired.iter().map(|one| Ok(one.done()?[0])).sum::<Result<u64>>()?;
    ensure!(lost > 0, "no packet was lost");
    wait_for("all records", PATIENCE, || {
        let killed = site.daemon.access().iter().filter(|record| record.reason == "killed").count();
        (killed == FLOWS).then_some(())
    })?;
    site.daemon.stop()
}

/// Bytes are on their way in both directions, so that no number that is known here is the one that an end expects.
#[test]
fn a_flow_in_use_is_killed_at_once() -> Result<()> {
    for round in 0..8 {
        let site = site()?;
        let (mut client, mut server) = site.flow()?;
        transfer(&mut client, &mut server, 1, 1000)?;
        site.daemon.wait_for_packets(1)?;
        let address = client.local_addr()?;
        let id = site.daemon.id_of(address)?;
        let ends = [(client.try_clone()?, server.try_clone()?), (server.try_clone()?, client.try_clone()?)];
        std::thread::scope(|scope| {
            for (mut from, mut to) in ends {
                scope.spawn(move || drop(transfer(&mut from, &mut to, 2, u64::MAX >> 20)));
            }
            harness::deadline::dawdle(Duration::from_millis(20 + round));
            site.daemon.order("kill", &[id])
        })?;
        for end in [&mut client, &mut server] {
            // The other reader may have seen it first.
            ensure!(read_to_ending(end).map_or(true, |(bytes, _)| bytes == 0), "bytes after the end");
        }
        assert_eq!(site.daemon.wait_for_access(address)?.reason, "killed");
        site.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn who_has_no_such_flow_is_told_so() -> Result<()> {
    let site = site()?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let id = site.daemon.id_of(client.local_addr()?)?.to_string();
    let ended = site.daemon.command("kill", &["--json", "777", &id])?;
    ensure!(ended.code == Some(69), "{ended:?}");
    ensure!(
        ended.stderr.contains("no live connection with id 777") && ended.stderr.contains("snisplice flows"),
        "{ended:?}"
    );
    let said: serde_json::Value = serde_json::from_str(&ended.stdout)?;
    assert_eq!(said["done"][0].to_string(), id, "{said}");
    assert_eq!(said["failed"][0]["id"], 777, "{said}");
    expect_ending(&mut client, Ending::Reset)?;
    expect_ending(&mut server, Ending::Reset)?;
    for wrong in [&["x"][..], &[]] {
        let ended = site.daemon.command("kill", wrong)?;
        ensure!(ended.code == Some(64), "{ended:?}");
    }
    // The other way in may only be read.
    let refused = wait_for("an answer", PATIENCE, || site.daemon.get_over_tcp("/api/v1/flows/kill").ok())?;
    ensure!(refused.status == 404, "{refused:?}");
    site.daemon.stop()
}
