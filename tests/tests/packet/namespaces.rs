//! Folders of pins belong to a network namespace: one that is gone leaves nothing to another one that has its number.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::{Config, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::{BpfMap, Namespace, Topology};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::RawSite;

use crate::outlive::{begin, config_with, kill};

fn doctor(edge: &Namespace, pins: &Pins, arguments: &[&str]) -> Result<String> {
    let mut command = edge.command(snisplice()?);
    command.arg("doctor").args(arguments).arg("--pins").arg(pins.path());
    run(&mut command, b"")?.success()
}

/// The number of a namespace is given out again. The folder of the former one, as an earlier version named it, by the number alone,
/// is not taken for the new one's; nor is one with another cookie.
#[test]
fn connections_of_a_namespace_that_is_gone_are_not_adopted_by_another_one_with_its_number() -> Result<()> {
    let pins = Pins::create()?;
    let mut former = RawSite::start(&config_with(&pins))?;
    let _flows = begin(&former, 3)?;
    kill(&mut former.daemon)?;
    let left = pins.folder()?;
    // What the kernel does sooner or later, done at once.
    let net = Topology::create()?;
    fs::rename(left, pins.path().join(net.edge.inode()?.to_string()))?;
    let daemon = Launch::new()?.start(&net.edge, &config_with(&pins))?;
    ensure!(daemon.flows()?.is_empty(), "{:#?}", daemon.flows()?);
    daemon.wait_for_log("of a network namespace that no longer exists")?;
    pins.folder()?;
    daemon.stop()
}

/// An earlier version named its folder by the number alone.
fn is_found_by_the_next_version(config: &Config, pins: &Pins) -> Result<()> {
    let mut site = RawSite::start(config)?;
    let mut flows = begin(&site, 2)?;
    pins.wait_for_journal(2)?;
    kill(&mut site.daemon)?;
    let own = pins.folder()?;
    fs::rename(&own, pins.path().join(site.net.edge.inode()?.to_string()))?;
    site.daemon = Launch::new()?.start(&site.net.edge, config)?;
    site.daemon.wait_for_packets(2)?;
    ensure!(pins.folder()? == own, "{:?}", pins.folder()?);
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
        transfer(server, client, 3, 20_000)?;
    }
    ensure!(site.daemon.flows()?.iter().all(|flow| flow.sni.is_some()), "{:#?}", site.daemon.flows()?);
    drop(flows);
    site.daemon.stop()
}

#[test]
fn a_folder_of_an_earlier_version_is_adopted_by_its_links() -> Result<()> {
    let pins = Pins::create()?;
    is_found_by_the_next_version(&config_with(&pins), &pins)
}

#[test]
fn a_folder_of_an_earlier_version_is_adopted_by_its_filters() -> Result<()> {
    let pins = Pins::create()?;
    is_found_by_the_next_version(&config_with(&pins).packet_line("attach = \"clsact\""), &pins)
}

/// The programs of an earlier version were detached while no daemon ran: its connections live on all the same.
#[test]
fn a_folder_of_an_earlier_version_is_adopted_though_its_programs_were_detached() -> Result<()> {
    let pins = Pins::create()?;
    let config = config_with(&pins).packet_line("attach = \"clsact\"");
    let mut site = RawSite::start(&config)?;
    let mut flows = begin(&site, 2)?;
    pins.wait_for_journal(2)?;
    kill(&mut site.daemon)?;
    // What was sent last is acknowledged by then.
    dawdle(Duration::from_millis(150));
    for interface in ["client", "backend"] {
        let mut tc = site.net.edge.command("tc");
        run(tc.args(["qdisc", "del", "dev", interface, "clsact"]), b"")?.success()?;
    }
    fs::rename(pins.folder()?, pins.path().join(site.net.edge.inode()?.to_string()))?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(2)?;
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
        transfer(server, client, 3, 20_000)?;
    }
    drop(flows);
    site.daemon.stop()
}

/// An earlier version does not say what ports it takes: its connections tell whether it is another daemon. And what cannot be read is not
/// taken for nothing.
#[test]
fn a_folder_that_does_not_say_its_ports_is_known_by_those_of_its_connections() -> Result<()> {
    let (pins, others) = (Pins::create()?, Pins::create()?);
    let mut site = RawSite::start(&config_with(&pins).packet_line("ports = \"61000-61007\""))?;
    let mut flows = begin(&site, 2)?;
    kill(&mut site.daemon)?;
    fs::remove_file(pins.folder()?.join("ports"))?;
    let config = config_with(&others).packet_line("ports = \"62000-62009\"");
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    let warned = site.daemon.wait_for_log("has left offloaded connections, and does not run")?;
    ensure!(warned.contains("WARN") && warned.contains("\"2\""), "{warned}");
    ensure!(site.daemon.status()?.datapaths.packet.available, "{:?}", site.daemon.status()?.datapaths.packet);
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
    }
    kill(&mut site.daemon)?;
    let flow_map = pins.pinned("FLOWS")?;
    fs::remove_file(&flow_map)?;
    BpfMap::of_sockets(4)?.pin(&flow_map)?;
    let said = doctor(&site.net.edge, &pins, &["--json"])?;
    ensure!(said.contains("an unknown number") && said.contains("they continue without a daemon"), "{said}");
    let config = config_with(&others).packet_line("ports = \"61000-61009\"");
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    let packet = site.daemon.status()?.datapaths.packet;
    let reason = packet.reason.unwrap_or_default();
    ensure!(!packet.available && reason.contains("cannot take over the offloaded connections"), "{reason}");
    site.daemon.stop()
}

#[test]
fn doctor_lists_what_a_namespace_that_is_gone_has_left_and_removes_it() -> Result<()> {
    let pins = Pins::create()?;
    let mut former = RawSite::start(&config_with(&pins))?;
    let flows = begin(&former, 2)?;
    kill(&mut former.daemon)?;
    let net = Topology::create()?;
    let said = doctor(&net.edge, &pins, &["--json"])?;
    ensure!(said.contains("2 offloaded connections; of another network namespace"), "{said}");
    let refused = doctor(&net.edge, &pins, &["--clean"])?;
    ensure!(refused.contains("nothing is pinned"), "{refused}");
    drop((flows, former));
    // The kernel takes namespaces apart in its own time, and a namespace of another test may have the same number for a while.
    let said = wait_for("the namespace to be gone", 6 * PATIENCE, || {
        doctor(&net.edge, &pins, &["--clean"]).ok().filter(|said| !said.contains("nothing is pinned"))
    })?;
    ensure!(said.contains("of a network namespace that no longer exists, with 2 connections"), "{said}");
    ensure!(pins.is_empty()?, "something is still pinned");
    Ok(())
}

/// `pins` is changed in the configuration while connections are offloaded.
#[test]
fn a_daemon_with_another_folder_for_pins_takes_over_what_is_pinned_in_the_former_one() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 2)?;
    pins.wait_for_journal(2)?;
    kill(&mut site.daemon)?;
    let (other, journal) = (pins.path().join("other"), pins.journal().with_extension("other"));
    let config = harness::site::config().datapath(harness::daemon::Datapath::Packet);
    let config = config.packet_at(&other, &journal, "0s");
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(2)?;
    ensure!(pins.folder()? == other, "{:?}", pins.folders()?);
    ensure!(site.daemon.flows()?.iter().all(|flow| flow.sni.is_some()), "{:#?}", site.daemon.flows()?);
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
    }
    flows.push(site.flow()?);
    site.daemon.wait_for_packets(3)?;
    drop(flows);
    site.daemon.stop()
}

/// Nothing can be renamed into another file system: the packet datapath is refused, and the connections go on.
#[test]
fn a_daemon_whose_pins_are_in_another_file_system_says_where_the_former_ones_are() -> Result<()> {
    let (pins, others) = (Pins::create()?, Pins::create()?);
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 2)?;
    pins.wait_for_journal(2)?;
    kill(&mut site.daemon)?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config_with(&others))?;
    let reason = site.daemon.status()?.datapaths.packet.reason.unwrap_or_default();
    let former = pins.folder()?;
    ensure!(
        reason.contains("2 offloaded connections") && reason.contains(&*former.to_string_lossy()),
        "{reason}"
    );
    ensure!(reason.contains("doctor --clean --pins"), "{reason}");
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
    }
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    Ok(())
}
