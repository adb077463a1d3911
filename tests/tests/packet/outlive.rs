//! Flows without sockets outlive the daemon, and the next one finds them.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::command::run;
use harness::daemon::{Config, Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::peers::raw::{Ending, expect_ending, finish, read_to_ending, reset, transfer};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use harness::wire::Guard;

const FLOWS: usize = 40;

/// What a daemon is started with that is to outlive itself, or another one.
pub(crate) fn config_with(pins: &Pins) -> Config {
    config().datapath(Datapath::Packet).packet(pins, "0s")
}

pub(crate) fn begin(site: &RawSite, flows: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let mut all = (0..flows).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut all {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(flows)?;
    Ok(all)
}

pub(crate) fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(libc::SIGKILL)?;
    ensure!(daemon.wait_for_exit(PATIENCE)?.code().is_none(), "it was not killed");
    Ok(())
}

#[test]
fn a_killed_daemon_breaks_none_of_them_and_the_next_one_counts_on() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, FLOWS)?;
    pins.wait_for_journal(FLOWS)?;
    kill(&mut site.daemon)?;
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
        transfer(server, client, 3, 30_000)?;
    }
    site.daemon = Launch::new()?.start(&site.net.edge, &config_with(&pins))?;
    site.daemon.wait_for_packets(FLOWS)?;
    for (mut client, mut server) in flows {
        transfer(&mut client, &mut server, 4, 500)?;
        finish(&client)?;
        expect_ending(&mut server, Ending::Eof)?;
        finish(&server)?;
        expect_ending(&mut client, Ending::Eof)?;
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        assert_eq!((access.reason.as_str(), access.listener.as_str()), ("eof", "tls"), "{access:?}");
        assert_eq!(access.bytes_out, 30_000, "{access:?}");
        assert!(access.bytes_in > 21_500 && access.sni.is_some(), "{access:?}");
    }
    site.daemon.stop()
}

#[test]
fn a_daemon_that_is_stopped_leaves_them_and_one_that_is_to_release_them_does_not() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 3)?;
    site.daemon.signal(libc::SIGTERM)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    for (client, server) in &mut flows {
        transfer(client, server, 2, 20_000)?;
    }
    let hurried = config_with(&pins).timeout("drain", "1s");
    site.daemon = Launch::new()?.release().start(&site.net.edge, &hurried)?;
    site.daemon.wait_for_packets(3)?;
    site.daemon.signal(libc::SIGTERM)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    for (mut client, mut server) in flows {
        expect_ending(&mut client, Ending::Eof)?;
        expect_ending(&mut server, Ending::Eof)?;
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        assert_eq!(access.reason, "drain", "{access:?}");
    }
    ensure!(pins.is_empty()?, "something is still pinned");
    Ok(())
}

#[test]
fn doctor_cleans_up_what_is_left() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&config_with(&pins))?;
    let mut flows = begin(&site, 2)?;
    let clean = || {
        let mut command = site_command(&site)?;
        command.args(["doctor", "--clean", "--pins"]).arg(pins.path());
        run(&mut command, b"")
    };
    let refused = clean()?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("a running snisplice uses it"), "{refused:?}");
    kill(&mut site.daemon)?;
    let clean = {
        let mut command = site_command(&site)?;
        command.args(["doctor", "--clean", "--pins"]).arg(pins.path());
        run(&mut command, b"")?.success()?
    };
    assert!(clean.contains("2 offloaded connections"), "{clean}");
    for (client, server) in &mut flows {
        drop(std::io::Write::write_all(client, b"x"));
        expect_ending(client, Ending::Reset)?;
        drop(std::io::Write::write_all(server, b"x"));
        expect_ending(server, Ending::Reset)?;
    }
    wait_for("the pins to be gone", PATIENCE, || pins.is_empty().ok()?.then_some(()))
}

fn site_command(site: &RawSite) -> Result<std::process::Command> {
    Ok(site.net.edge.command(harness::command::snisplice()?))
}

#[test]
fn what_is_in_the_middle_of_leaving_when_the_daemon_is_killed_never_hangs() -> Result<()> {
    // Ten daemons are killed at ten moments while flows begin and leave: each flow goes on, or is reset.
    for moment in 0..10_u64 {
        let pins = Pins::create()?;
        let mut site = RawSite::start(&config_with(&pins))?;
        let mut flows = Vec::new();
        for _ in 0..8 {
            let (client, server) = site.flow()?;
            flows.push((client, server));
            harness::deadline::dawdle(Duration::from_millis(moment));
        }
        kill(&mut site.daemon)?;
        for (client, server) in &mut flows {
            let up = transfer(client, server, 1, 3000);
            if up.is_err() {
                // It was not out of its sockets: both ends are told, one of them before.
                drop(std::io::Write::write_all(server, b"x"));
                let told = [read_to_ending(client), read_to_ending(server)];
                ensure!(told.iter().all(Result::is_ok), "moment {moment}: {up:?} {told:?}");
            } else {
                transfer(server, client, 2, 3000)?;
            }
        }
    }
    Ok(())
}

/// Of the next daemon: it does not ban where they come from, and they take their places among a source's connections.
#[test]
fn flows_of_an_earlier_daemon_count_for_their_source() -> Result<()> {
    let pins = Pins::create()?;
    let config = config_with(&pins).source_connections(2).guard("client", "");
    let mut site = RawSite::start(&config)?;
    let mut flows = begin(&site, 2)?;
    kill(&mut site.daemon)?;
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(2)?;
    let banned = Guard::command(&site.daemon, &["ban", "10.1.0.2"])?;
    ensure!(banned.code == Some(69) && banned.stderr.contains("established connections"), "{banned:?}");
    drop(site.connect());
    site.daemon.wait_for_metric("snisplice_connections_turned_away_total", &[("listener", "tls")], 1.0)?;
    let (client, mut server) = flows.remove(0);
    reset(client)?;
    expect_ending(&mut server, Ending::Reset)?;
    site.daemon.wait_for_packets(1)?;
    flows.push(site.flow()?);
    drop(flows);
    site.daemon.stop()
}

/// The keepalive of the daemons, who are away for longer than that.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Connections of a daemon that is away for longer than `keepalive`. The clients and servers are there and silent.
#[test]
fn a_daemon_that_was_away_for_longer_than_keepalive_asks_the_peers_before_it_ends_anything() -> Result<()> {
    let pins = Pins::create()?;
    let config = config_with(&pins).timeout("keepalive", "2s");
    let mut site = RawSite::start(&config)?;
    let mut flows = begin(&site, 5)?;
    kill(&mut site.daemon)?;
    harness::deadline::dawdle(KEEPALIVE + Duration::from_secs(1));
    site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
    site.daemon.wait_for_packets(5)?;
    // Longer than it takes to end a connection whose peers do not answer.
    harness::deadline::dawdle(KEEPALIVE + Duration::from_millis(500));
    ensure!(site.daemon.flows()?.len() == 5, "{:#?}", site.daemon.flows()?);
    for (client, server) in &mut flows {
        transfer(client, server, 2, 500)?;
        transfer(server, client, 3, 500)?;
    }
    // From now on they do not answer.
    site.net.client.cut_links()?;
    for (client, _) in flows {
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        assert_eq!(access.reason, "client_timeout", "{access:?}");
    }
    Ok(())
}

/// As it gets no processor, or the machine is a virtual one that is paused.
#[test]
fn a_daemon_that_stands_still_for_longer_than_keepalive_asks_again_before_it_ends_anything() -> Result<()> {
    let pins = Pins::create()?;
    let site = RawSite::start(&config_with(&pins).timeout("keepalive", "2s"))?;
    let mut flows = begin(&site, 5)?;
    // Meanwhile the peers are asked, and answer.
    harness::deadline::dawdle(KEEPALIVE);
    site.daemon.signal(libc::SIGSTOP)?;
    harness::deadline::dawdle(KEEPALIVE + Duration::from_secs(1));
    site.daemon.signal(libc::SIGCONT)?;
    harness::deadline::dawdle(Duration::from_millis(500));
    ensure!(site.daemon.flows()?.len() == 5, "{:#?}", site.daemon.flows()?);
    for (client, server) in &mut flows {
        transfer(client, server, 2, 500)?;
        transfer(server, client, 3, 500)?;
    }
    site.daemon.stop()
}
