//! Programs of others at the same interfaces, before ours and behind them, as those of Cilium are.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::command::run;
use harness::deadline::dawdle;
use harness::netns::{BpfClassifier, BpfLink, Namespace};
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::site::RawSite;

use crate::detached::has_links;
use crate::refusals::wait_for_reason;
use crate::{attached_by, counted};

const PASS_ON: i32 = -1;
const PASS: i32 = 0;
const DROP: i32 = 2;

/// So long the daemon takes to look which programs there are.
const UNTIL_LOOKED_AT: Duration = Duration::from_millis(600);

/// Where a program of somebody else is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Behind,
}

fn tc(edge: &Namespace, arguments: &str) -> Result<()> {
    run(edge.command("tc").args(arguments.split(' ')), b"")?.success().map(drop)
}

/// Somebody else's program, at what comes in from clients: as a link, as long as that is open, or as a filter.
fn put(site: &RawSite, pins: &Pins, attach: &str, place: Place, verdict: i32) -> Result<Option<BpfLink>> {
    let (edge, program) = (&site.net.edge, BpfClassifier::that_says(verdict)?);
    if attach == "tcx" {
        let before = place == Place::Before;
        return edge
            .enter(|| Ok(program.attach(harness::wire::interface_number("client")?, before)?))
            .map(Some);
    }
    let priority = if place == Place::Before { 1 } else { 60_000 };
    let path = pins.path().join(format!("foreign-{priority}"));
    program.pin(&path)?;
    // It is there if the daemon has filters already.
    drop(tc(edge, "qdisc add dev client clsact"));
    let path = path.display();
    tc(
        edge,
        &format!(
            "filter add dev client ingress protocol all prio {priority} bpf direct-action object-pinned {path}"
        ),
    )?;
    Ok(None)
}

fn remove(site: &RawSite, link: Option<BpfLink>, place: Place) -> Result<()> {
    if let Some(link) = link {
        return Ok(link.detach()?);
    }
    let priority = if place == Place::Before { 1 } else { 60_000 };
    tc(&site.net.edge, &format!("filter del dev client ingress prio {priority}"))
}

fn live_on((client, server): &mut (TcpStream, TcpStream)) -> Result<()> {
    transfer(client, server, 7, 500_000)?;
    transfer(server, client, 8, 500_000)
}

fn ways() -> Result<Vec<&'static str>> {
    Ok(if has_links()? { vec!["tcx", "clsact"] } else { vec!["clsact"] })
}

#[test]
fn programs_of_others_that_pass_packets_on_make_no_difference() -> Result<()> {
    for attach in ways()? {
        let pins = Pins::create()?;
        let site = RawSite::start(&attached_by(&pins, attach))?;
        let _before = put(&site, &pins, attach, Place::Before, PASS_ON)?;
        if attach == "clsact" {
            // One that sends others' packets on by another interface.
            let redirect =
                "prio 2 protocol ip u32 match ip dport 8080 0xffff action mirred egress redirect dev backend";
            tc(&site.net.edge, &format!("filter add dev client ingress {redirect}"))?;
        }
        let mut flow = site.flow()?;
        live_on(&mut flow)?;
        site.daemon.wait_for_packets(1)?;
        let before = counted(&site.daemon)?;
        // Those that come later, and end what is asked.
        let _behind = put(&site, &pins, attach, Place::Behind, PASS)?;
        live_on(&mut flow)?;
        let after = counted(&site.daemon)?;
        ensure!(after.forwarded_bytes - before.forwarded_bytes >= 1_000_000, "{before:?} {after:?}");
        drop(flow);
        site.daemon.stop()?;
    }
    Ok(())
}

/// It says `TC_ACT_OK`, so that no other program is asked: ours sees no packet.
#[test]
fn a_program_that_keeps_packets_from_ours_keeps_connections_from_being_offloaded() -> Result<()> {
    for attach in ways()? {
        let pins = Pins::create()?;
        let site = RawSite::start(&attached_by(&pins, attach))?;
        let first = put(&site, &pins, attach, Place::Before, PASS)?;
        let mut flow = site.flow()?;
        live_on(&mut flow)?;
        wait_for_reason(&site.daemon, "unseen")?;
        let told = site.daemon.wait_for_flow("the reason", |flow| flow.obstacle.is_some())?;
        ensure!(told.obstacle.as_ref().is_some_and(|text| text.contains("tc or XDP program")), "{told:?}");
        live_on(&mut flow)?;
        remove(&site, first, Place::Before)?;
        site.daemon.wait_for_packets(1)?;
        live_on(&mut flow)?;
        drop(flow);
        site.daemon.stop()?;
    }
    Ok(())
}

/// The kernel gets the packets of an offloaded connection then, and would reset it: its answer is dropped, and ours comes first from then on.
#[test]
fn a_program_that_comes_later_and_keeps_packets_from_ours_comes_behind_it() -> Result<()> {
    for attach in ways()? {
        let pins = Pins::create()?;
        let site = RawSite::start(&attached_by(&pins, attach).timeout("keepalive", "2s"))?;
        let mut flow = site.flow()?;
        live_on(&mut flow)?;
        site.daemon.wait_for_packets(1)?;
        dawdle(UNTIL_LOOKED_AT);
        let passes = put(&site, &pins, attach, Place::Before, PASS_ON)?;
        let line = site.daemon.wait_for_log("put a tc program before")?;
        ensure!(line.contains("WARN") && line.contains("\"client\""), "{line}");
        live_on(&mut flow)?;
        remove(&site, passes, Place::Before)?;
        std::fs::remove_file(pins.path().join("foreign-1")).ok();
        let forwarded = counted(&site.daemon)?.forwarded_bytes;
        let _keeps = put(&site, &pins, attach, Place::Before, PASS)?;
        live_on(&mut flow)?;
        let line = site.daemon.wait_for_log("has been put before it")?;
        ensure!(line.contains("WARN") && line.contains("\"client\""), "{line}");
        let after = counted(&site.daemon)?;
        ensure!(after.missed > 0 && after.forwarded_bytes - forwarded >= 1_000_000, "{after:?}");
        // And again, before that place.
        std::fs::remove_file(pins.path().join("foreign-1")).ok();
        let _too = put(&site, &pins, attach, Place::Before, PASS)?;
        live_on(&mut flow)?;
        let (client, server) = flow;
        finish(&client)?;
        finish(&server)?;
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        ensure!(access.reason == "eof", "{access:?}");
        site.daemon.stop()?;
    }
    Ok(())
}

/// Its client seems to be silent, since somebody has put a program before ours.
#[test]
fn one_that_drops_all_packets_of_a_client_ends_its_connections_by_keepalive() -> Result<()> {
    let attach = ways()?.remove(0);
    let pins = Pins::create()?;
    let site = RawSite::start(&attached_by(&pins, attach).timeout("keepalive", "2s"))?;
    let mut flow = site.flow()?;
    live_on(&mut flow)?;
    site.daemon.wait_for_packets(1)?;
    dawdle(UNTIL_LOOKED_AT);
    let _first = put(&site, &pins, attach, Place::Before, DROP)?;
    let (client, mut server) = flow;
    expect_ending(&mut server, Ending::Reset)?;
    let access = site.daemon.wait_for_access(client.local_addr()?)?;
    ensure!(access.reason == "datapath_lost", "{access:?}");
    site.daemon.stop()
}
