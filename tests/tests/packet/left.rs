//! `[packet]` is taken out of the configuration while connections are offloaded.

use anyhow::{Context as _, Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::{ADMIN_PORT, Config, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::backend;
use harness::peers::raw::{Ending, expect_ending, finish, transfer};
use harness::pins::Pins;
use harness::site::{POLLING_PORT, RawSite, config};

use crate::outlive::{begin, config_with, kill};

#[test]
fn a_daemon_without_packet_looks_after_what_an_earlier_one_has_offloaded() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 3)?;
    pins.wait_for_journal(3)?;
    kill(&mut site.daemon)?;
    let mut doctor = site.net.edge.command(snisplice()?);
    let said = run(doctor.args(["doctor", "--json", "--pins"]).arg(pins.path()), b"")?.success()?;
    ensure!(said.contains("3 offloaded connections; they continue without a daemon"), "{said}");

    site.daemon = Launch::new()?.start(&site.net.edge, &config().datapath(Datapath::Copy))?;
    // It looks for them 10 s after its start.
    let warned = wait_for("the daemon to find them", 3 * PATIENCE, || {
        let lines = site.daemon.log();
        lines.into_iter().find(|line| line.contains("an earlier snisplice has left offloaded connections"))
    })?;
    ensure!(warned.contains("WARN") && warned.contains("\"connections\":3"), "{warned}");
    ensure!(warned.contains(&*pins.path().to_string_lossy()), "{warned}");
    site.daemon.wait_for_packets(3)?;
    ensure!(site.daemon.flows()?.iter().all(|flow| flow.sni.is_some()), "{:#?}", site.daemon.flows()?);
    let status = wait_for("the status to name the pins", PATIENCE, || {
        let packet = site.daemon.status().ok()?.datapaths.packet;
        packet.reason.as_ref()?.contains("pins: ").then_some(packet)
    })?;
    let reason = status.reason.unwrap_or_default();
    ensure!(!status.available && reason.contains("not configured"), "{reason}");

    // One is ended by an order, one gets sockets again, and no connection joins them.
    let (mut client, mut server) = flows.remove(0);
    site.daemon.order("kill", &[site.daemon.id_of(client.local_addr()?)?])?;
    expect_ending(&mut client, Ending::Reset)?;
    expect_ending(&mut server, Ending::Reset)?;
    let (client, server) = flows.first_mut().context("two are left")?;
    site.daemon.order("restore", &[site.daemon.id_of(client.local_addr()?)?])?;
    transfer(client, server, 2, 20_000)?;
    flows.push(site.flow()?);
    site.daemon.wait_for_packets(1)?;

    // They end as ever, and nothing stays when the last one has.
    for (mut client, mut server) in flows {
        finish(&client)?;
        expect_ending(&mut server, Ending::Eof)?;
        finish(&server)?;
        expect_ending(&mut client, Ending::Eof)?;
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        ensure!(access.reason == "eof", "{access:?}");
    }
    site.daemon.stop()?;
    wait_for("the pins to be gone", PATIENCE, || pins.is_empty().ok()?.then_some(()))
}

/// Two daemons in one network namespace start again at the same time: the connections are the one's that offloads connections.
#[test]
fn a_daemon_without_packet_leaves_the_connections_of_one_that_starts_again_beside_it() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 2)?;
    kill(&mut site.daemon)?;
    let other = Config::new()
        .admin_port(ADMIN_PORT + 10)
        .listen_to("second", "[::]:9444", "server")
        .upstream("server", backend(POLLING_PORT))
        .datapath(Datapath::Copy);
    let other = Launch::new()?.start(&site.net.edge, &other)?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config_with(&pins))?;
    ensure!(site.daemon.status()?.datapaths.packet.available, "{:?}", site.daemon.status()?.datapaths.packet);
    site.daemon.wait_for_packets(2)?;
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
    }
    drop(flows);
    other.stop()?;
    site.daemon.stop()
}
