//! Programs as filters of a `clsact`, which is how kernels before 6.6 have them.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::command::{run, snisplice};
use harness::daemon::Launch;
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::{BpfClassifier, Namespace};
use harness::peers::raw::{Ending, expect_ending, transfer};
use harness::pins::Pins;
use harness::site::RawSite;

use crate::outlive::kill;
use crate::{attached_by, counted};

/// Times that a daemon takes the place of another one.
const TURNS: u64 = 4;

/// How many filters with programs there are, in both directions at both interfaces.
fn filters(edge: &Namespace) -> Result<usize> {
    let mut count = 0;
    for (interface, direction) in
        [("client", "ingress"), ("client", "egress"), ("backend", "ingress"), ("backend", "egress")]
    {
        let mut tc = edge.command("tc");
        let shown = run(tc.args(["filter", "show", "dev", interface, direction]), b"")?.success()?;
        count += shown.lines().filter(|line| line.contains("direct-action")).count();
    }
    Ok(count)
}

/// Resets that the stack of the edge has sent.
fn resets(edge: &Namespace) -> Result<u64> {
    let text = edge.enter(|| Ok(std::fs::read_to_string("/proc/net/snmp")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "OutRsts");
    Ok(found.context("no OutRsts")?.1.parse()?)
}

/// Between two transfers: the machine has other things to do, too, above all an emulated one.
const PAUSE: Duration = Duration::from_millis(10);

/// Sends and receives until `stop`, with short pauses. Says how much.
fn busy((client, server): &mut (TcpStream, TcpStream), stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut stream = 10;
    while !stop.load(Ordering::Relaxed) {
        transfer(client, server, stream, 50_000)?;
        transfer(server, client, stream + 1, 50_000)?;
        stream += 2;
        done.fetch_add(1, Ordering::Relaxed);
        dawdle(PAUSE);
    }
    Ok(())
}

/// Daemons take each other's place, attached as `ways` say in turn, while flows without sockets are in use: none is reset, and
/// the stack sees none of their packets.
fn succeed_each_other(ways: &[&str]) -> Result<()> {
    let pins = Pins::create()?;
    let first = *ways.first().context("no way")?;
    let mut site = RawSite::start(&attached_by(&pins, first))?;
    let mut flows = (0..4).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut flows {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(flows.len())?;
    let before = resets(&site.net.edge)?;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let playing: Vec<_> = flows.iter_mut().map(|flow| scope.spawn(|| busy(flow, &stop, &done))).collect();
        let succession = (|| {
            for turn in 1..=TURNS {
                let way = ways.get(usize::try_from(turn)? % ways.len()).context("no way")?;
                let so_far = done.load(Ordering::Relaxed);
                kill(&mut site.daemon)?;
                site.daemon = Launch::new()?.start(&site.net.edge, &attached_by(&pins, way))?;
                site.daemon.wait_for_packets(4)?;
                let expected = if *way == "clsact" { 4 } else { 0 };
                ensure!(filters(&site.net.edge)? == expected, "turn {turn}: {}", filters(&site.net.edge)?);
                wait_for("the flows to go on", PATIENCE, || {
                    (done.load(Ordering::Relaxed) > so_far + 8).then_some(())
                })?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        for one in playing {
            one.join().map_err(|_| anyhow!("a flow panicked"))??;
        }
        succession
    })?;
    ensure!(resets(&site.net.edge)? == before, "the stack has answered packets of flows without sockets");
    println!("{} rounds of 100 kB; {:?}", done.load(Ordering::Relaxed), counted(&site.daemon)?);
    drop(flows);
    site.daemon.stop()
}

#[test]
fn a_daemon_takes_the_place_of_another_one_s_filters_without_a_gap() -> Result<()> {
    succeed_each_other(&["clsact"])
}

#[test]
fn links_and_filters_take_each_other_s_place_without_a_gap() -> Result<()> {
    // tcx came with Linux 6.6.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(6)) {
        println!("SKIPPED: this kernel has no links: Linux {}", release.trim());
        return Ok(());
    }
    succeed_each_other(&["tcx", "clsact"])
}

#[test]
fn filters_go_with_a_daemon_that_is_to_release_its_flows() -> Result<()> {
    let pins = Pins::create()?;
    let config = attached_by(&pins, "clsact").timeout("drain", "1s");
    let mut site = RawSite::launch(&config, &Launch::new()?.release())?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    assert_eq!(filters(&site.net.edge)?, 4);
    site.daemon.signal(libc::SIGTERM)?;
    assert_eq!(site.daemon.wait_for_exit(PATIENCE)?.code(), Some(0));
    // It was taken back for that.
    expect_ending(&mut client, Ending::Eof)?;
    expect_ending(&mut server, Ending::Eof)?;
    assert_eq!(filters(&site.net.edge)?, 0);
    ensure!(pins.is_empty()?, "something is still pinned");
    Ok(())
}

#[test]
fn doctor_cleans_filters_up() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&attached_by(&pins, "clsact"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    kill(&mut site.daemon)?;
    transfer(&mut server, &mut client, 2, 20_000)?;
    assert_eq!(filters(&site.net.edge)?, 4, "they outlive the daemon");
    let mut doctor = site.net.edge.command(snisplice()?);
    let said = run(doctor.args(["doctor", "--clean", "--pins"]).arg(pins.path()), b"")?.success()?;
    assert!(said.contains("1 offloaded connections"), "{said}");
    assert_eq!(filters(&site.net.edge)?, 0);
    drop(std::io::Write::write_all(&mut client, b"x"));
    expect_ending(&mut client, Ending::Reset)
}

/// Somebody else's filter is in the place of ours: a clean-up leaves it there.
#[test]
fn doctor_leaves_the_filter_of_another_program_alone() -> Result<()> {
    let pins = Pins::create()?;
    let mut site = RawSite::start(&attached_by(&pins, "clsact"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    kill(&mut site.daemon)?;
    let foreign = pins.path().join("foreign");
    BpfClassifier::that_passes()?.pin(&foreign)?;
    let mut tc = site.net.edge.command("tc");
    tc.args(["filter", "replace", "dev", "client", "ingress", "protocol", "all", "prio", "23313"]);
    run(tc.args(["handle", "1", "bpf", "direct-action", "object-pinned"]).arg(&foreign), b"")?.success()?;
    assert_eq!(filters(&site.net.edge)?, 4, "it is not in the place of ours");
    let mut doctor = site.net.edge.command(snisplice()?);
    run(doctor.args(["doctor", "--clean", "--pins"]).arg(pins.path()), b"")?.success()?;
    assert_eq!(filters(&site.net.edge)?, 1);
    Ok(())
}
