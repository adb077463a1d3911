//! Somebody else takes the programs away from an interface, or removes what is pinned.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::command::run;
use harness::daemon::{Config, Daemon, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::netns::{BpfClassifier, BpfLink, BpfMap, Namespace};
use harness::peers::raw::{Ending, expect_ending, transfer};
use harness::pins::Pins;
use harness::site::RawSite;

use crate::outlive::kill;

use crate::attached_by;

/// What was sent last is acknowledged by then, so that the connection is idle (the kernel waits for 40 ms).
const ACKNOWLEDGED: Duration = Duration::from_millis(150);

/// Connections that are reset later, one a second.
const LATER: usize = 8;

const REATTACHED: &str = "snisplice_packet_reattached_total";

/// The kernel refuses it while the daemon asks for a filter there.
fn tc(edge: &Namespace, arguments: &str) -> Result<()> {
    wait_for(&format!("`tc {arguments}` to succeed"), PATIENCE, || {
        run(edge.command("tc").args(arguments.split(' ')), b"").ok()?.success().ok().map(drop)
    })
}

/// A site with so many flows that have left their sockets.
fn begin(config: &Config, flows: usize) -> Result<(RawSite, Vec<(TcpStream, TcpStream)>)> {
    let site = RawSite::start(config)?;
    let mut all = (0..flows).map(|_| site.flow()).collect::<Result<Vec<_>>>()?;
    for (client, server) in &mut all {
        transfer(client, server, 1, 1000)?;
    }
    site.daemon.wait_for_packets(flows)?;
    Ok((site, all))
}

fn live_on((client, server): &mut (TcpStream, TcpStream)) -> Result<()> {
    transfer(client, server, 7, 20_000)?;
    transfer(server, client, 8, 20_000)
}

/// Sends the daemon to sleep.
fn suspend(daemon: &Daemon) -> Result<()> {
    daemon.signal(libc::SIGSTOP)?;
    let threads = Path::new("/proc").join(daemon.pid().to_string()).join("task");
    wait_for("the daemon to sleep", PATIENCE, || {
        let mut threads = threads.read_dir().ok()?;
        let sleeps = |thread: &fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        threads.all(|thread| thread.is_ok_and(|thread| sleeps(&thread))).then_some(())
    })
}

/// What is taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// The program for what comes in.
    Arriving,
    Both,
}

/// Sends a byte while programs are away. Without both of them the kernel resets the connection; else the byte comes again.
fn use_it(what: What, (client, server): &mut (TcpStream, TcpStream)) -> Result<()> {
    client.write_all(b"x")?;
    if what == What::Both {
        return expect_ending(client, Ending::Reset);
    }
    server.set_nonblocking(true)?;
    dawdle(Duration::from_millis(100));
    let early = server.read(&mut [0]).map_err(|error| error.kind());
    ensure!(early == Err(ErrorKind::WouldBlock), "{early:?}");
    Ok(server.set_nonblocking(false)?)
}

/// After [`use_it`], once a daemon has attached the programs again.
fn see_what_became_of_it(site: &RawSite, what: What, mut flow: (TcpStream, TcpStream)) -> Result<()> {
    let (client, server) = &mut flow;
    if what == What::Both {
        expect_ending(server, Ending::Reset)?;
        let access = site.daemon.wait_for_access(client.local_addr()?)?;
        assert_eq!((access.reason.as_str(), access.side.as_deref()), ("datapath_lost", None), "{access:?}");
        return Ok(());
    }
    let mut byte = [0];
    server.read_exact(&mut byte)?;
    assert_eq!(byte, *b"x");
    live_on(&mut flow)
}

/// Takes programs away by `take`, once while all is idle, and once while the daemon sleeps and a connection is in use.
fn taken_and_attached_again(
    pins: &Pins,
    attach: &str,
    what: What,
    take: impl Fn(&RawSite) -> Result<()>,
) -> Result<()> {
    let (site, mut flows) = begin(&attached_by(pins, attach), 1 + LATER)?;
    dawdle(ACKNOWLEDGED);
    let begun = Instant::now();
    take(&site)?;
    site.daemon.wait_for_metric(REATTACHED, &[], 1.0)?;
    println!("{attach}: attached again after {:?}", begun.elapsed());
    let line = site.daemon.wait_for_log("it is attached again")?;
    ensure!(line.contains("ERROR") && line.contains("\"client\""), "{line}");
    ensure!(site.daemon.status()?.datapaths.packet.available, "it is not available");
    flows.iter_mut().try_for_each(live_on)?;

    dawdle(ACKNOWLEDGED);
    suspend(&site.daemon)?;
    take(&site)?;
    let mut used = flows.remove(0);
    use_it(what, &mut used)?;
    site.daemon.signal(libc::SIGCONT)?;
    see_what_became_of_it(&site, what, used)?;
    site.daemon.wait_for_metric(REATTACHED, &[], 2.0)?;
    flows.iter_mut().try_for_each(live_on)?;
    resets_are_the_clients_own_again(&site, flows)?;
    site.daemon.stop()
}

/// A reset is the client's own again as soon as the daemon has looked at the connection, and knows that both ends live.
fn resets_are_the_clients_own_again(site: &RawSite, flows: Vec<(TcpStream, TcpStream)>) -> Result<()> {
    let mut reasons = Vec::new();
    for (client, mut server) in flows {
        dawdle(Duration::from_secs(1));
        let address = client.local_addr()?;
        harness::peers::raw::reset(client)?;
        expect_ending(&mut server, Ending::Reset)?;
        let reason = site.daemon.wait_for_access(address)?.reason;
        if reason == "client_reset" {
            return Ok(());
        }
        ensure!(reason == "datapath_lost", "{reason} after {reasons:?}");
        reasons.push(reason);
    }
    bail!("{reasons:?}")
}

/// Whether this kernel has tcx links, which came with Linux 6.6.
pub(crate) fn has_links() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    let has = (numbers.next(), numbers.next()) >= (Some(6), Some(6));
    if !has {
        println!("SKIPPED: this kernel has no links: Linux {}", release.trim());
    }
    Ok(has)
}

/// The link of a program at the clients' interface.
fn client_link(site: &RawSite, pins: &Pins, program: &str) -> Result<BpfLink> {
    let device = site.net.edge.enter(|| Ok(harness::wire::interface_number("client")?))?;
    Ok(BpfLink::pinned(&pins.pinned(&format!("{program}-{device}"))?)?)
}

#[test]
fn a_link_that_somebody_has_detached_is_attached_again() -> Result<()> {
    if !has_links()? {
        return Ok(());
    }
    let pins = Pins::create()?;
    taken_and_attached_again(&pins, "tcx", What::Arriving, |site| {
        Ok(client_link(site, &pins, "ingress")?.detach()?)
    })
}

#[test]
fn a_clsact_that_somebody_has_deleted_is_made_again() -> Result<()> {
    let pins = Pins::create()?;
    taken_and_attached_again(&pins, "clsact", What::Both, |site| {
        tc(&site.net.edge, "qdisc del dev client clsact")
    })
}

#[test]
fn a_link_whose_program_somebody_has_replaced_gets_it_again() -> Result<()> {
    if !has_links()? {
        return Ok(());
    }
    let pins = Pins::create()?;
    let foreign = BpfClassifier::that_passes()?;
    taken_and_attached_again(&pins, "tcx", What::Arriving, |site| {
        Ok(client_link(site, &pins, "ingress")?.replace(&foreign)?)
    })
}

#[test]
fn programs_that_were_taken_away_while_no_daemon_ran_are_attached_and_the_records_say_so() -> Result<()> {
    for attach in ["auto", "clsact"] {
        let pins = Pins::create()?;
        let config = attached_by(&pins, attach);
        let (mut site, mut flows) = begin(&config, 2)?;
        dawdle(ACKNOWLEDGED);
        kill(&mut site.daemon)?;
        let what = if attach == "clsact" || !has_links()? {
            tc(&site.net.edge, "qdisc del dev client clsact")?;
            What::Both
        } else {
            client_link(&site, &pins, "ingress")?.detach()?;
            What::Arriving
        };
        let mut used = flows.remove(0);
        use_it(what, &mut used)?;
        site.daemon = Launch::new()?.start(&site.net.edge, &config)?;
        site.daemon.wait_for_log("while no daemon ran")?;
        see_what_became_of_it(&site, what, used)?;
        flows.iter_mut().try_for_each(live_on)?;
        site.daemon.stop()?;
    }
    Ok(())
}

/// With another queueing discipline in the place of `clsact` the programs cannot be attached.
#[test]
fn what_cannot_be_attached_again_is_unavailable_until_it_can() -> Result<()> {
    let pins = Pins::create()?;
    let config =
        attached_by(&pins, "clsact").timeout("keepalive", "2s").admin_line("ready_requires = [\"packet\"]");
    let (site, mut flows) = begin(&config, 1)?;
    suspend(&site.daemon)?;
    tc(&site.net.edge, "qdisc del dev client clsact")?;
    tc(&site.net.edge, "qdisc add dev client ingress")?;
    site.daemon.signal(libc::SIGCONT)?;
    let packet = wait_for("the daemon to notice", PATIENCE, || {
        Some(site.daemon.status().ok()?.datapaths.packet).filter(|packet| !packet.available)
    })?;
    ensure!(packet.reason.as_ref().is_some_and(|reason| reason.contains("detached")), "{packet:?}");
    ensure!(
        site.daemon.metrics()?.sum("snisplice_packet_available", &[]) < 0.5,
        "the metric says that it is there"
    );
    let ready = site.daemon.get("/readyz")?;
    ensure!(ready.status == 503 && ready.body.contains("packet"), "{ready:?}");
    let mut late = site.flow()?;
    live_on(&mut late)?;
    site.daemon.wait_for_flow("a copied flow", |flow| flow.datapath.as_deref() == Some("copy"))?;
    // Cut off for as long as an end may be silent.
    let (client, _server) = flows.remove(0);
    assert_eq!(site.daemon.wait_for_access(client.local_addr()?)?.reason, "datapath_lost");
    let told = site.daemon.log().iter().filter(|line| line.contains("cannot be attached again")).count();
    assert_eq!(told, 1);

    tc(&site.net.edge, "qdisc del dev client ingress")?;
    wait_for("the daemon to be ready again", PATIENCE, || {
        (site.daemon.get("/readyz").ok()?.status == 200).then_some(())
    })?;
    ensure!(site.daemon.status()?.datapaths.packet.available, "it is not available");
    let mut new = site.flow()?;
    live_on(&mut new)?;
    site.daemon.wait_for_packets(1)?;
    drop((late, new));
    site.daemon.stop()
}

/// Somebody removes the programs as soon as they are there: he is not answered at once for ever, and no connection is offloaded only to
/// be reset.
#[test]
fn programs_that_are_removed_again_and_again_are_attached_later_and_later() -> Result<()> {
    let pins = Pins::create()?;
    let (site, _flows) = begin(&attached_by(&pins, "clsact"), 1)?;
    for times in [1.0, 2.0, 3.0] {
        tc(&site.net.edge, "qdisc del dev client clsact")?;
        site.daemon.wait_for_metric(REATTACHED, &[], times)?;
    }
    tc(&site.net.edge, "qdisc del dev client clsact")?;
    let removed = Instant::now();
    let line = site.daemon.wait_for_log("again and again")?;
    ensure!(line.contains("ERROR") && line.contains("\"client\"") && line.contains("after 1 s"), "{line}");
    let packet = wait_for("the status to say so", PATIENCE, || {
        Some(site.daemon.status().ok()?.datapaths.packet).filter(|packet| !packet.available)
    })?;
    ensure!(packet.reason.as_ref().is_some_and(|reason| reason.contains("again and again")), "{packet:?}");
    site.daemon.wait_for_metric(REATTACHED, &[], 4.0)?;
    ensure!(removed.elapsed() >= Duration::from_secs(1), "{:?}", removed.elapsed());
    let mut late = site.flow()?;
    live_on(&mut late)?;
    site.daemon.wait_for_flow("a copied flow", |flow| flow.datapath.as_deref() == Some("copy"))?;
    let reason = site.daemon.status()?.datapaths.packet.reason.unwrap_or_default();
    ensure!(reason.contains("until that has stopped"), "{reason}");
    drop(late);
    site.daemon.stop()
}

fn repinned(daemon: &Daemon, at_least: f64) -> Result<()> {
    daemon.wait_for_metric("snisplice_packet_repinned_total", &[], at_least)
}

/// A daemon that is killed leaves its flows to the next one, which finds them by what is pinned.
fn next_daemon_finds_them(
    mut site: RawSite,
    config: &Config,
    flows: &mut [(TcpStream, TcpStream)],
) -> Result<()> {
    kill(&mut site.daemon)?;
    flows.iter_mut().try_for_each(live_on)?;
    site.daemon = Launch::new()?.start(&site.net.edge, config)?;
    site.daemon.wait_for_packets(flows.len())?;
    flows.iter_mut().try_for_each(live_on)?;
    site.daemon.stop()
}

#[test]
fn pins_that_somebody_has_removed_are_made_again_and_the_next_daemon_finds_all() -> Result<()> {
    for attach in ["auto", "clsact"] {
        let pins = Pins::create()?;
        let config = attached_by(&pins, attach);
        let (site, mut flows) = begin(&config, 2)?;
        let flow_map = pins.pinned("FLOWS")?;
        let folder = flow_map.parent().unwrap_or(Path::new("/")).to_owned();
        fs::remove_file(&flow_map)?;
        repinned(&site.daemon, 1.0)?;
        site.daemon.wait_for_log("it is pinned again")?;
        ensure!(flow_map.exists(), "it is not");
        flows.iter_mut().try_for_each(live_on)?;
        // Emptied, and removed.
        let files = folder.read_dir()?.count();
        fs::remove_dir_all(&folder)?;
        repinned(&site.daemon, 1.0 + f64::from(u32::try_from(files)?))?;
        flows.iter_mut().try_for_each(live_on)?;
        next_daemon_finds_them(site, &config, &mut flows)?;
    }
    Ok(())
}

#[test]
fn a_pin_that_is_something_else_now_is_left_alone_and_said() -> Result<()> {
    let pins = Pins::create()?;
    let config = attached_by(&pins, "auto");
    let (site, mut flows) = begin(&config, 1)?;
    let flow_map = pins.pinned("FLOWS")?;
    // Made unreadable: not for root.
    let mut mode = fs::metadata(&flow_map)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0);
    fs::set_permissions(&flow_map, mode)?;
    dawdle(Duration::from_millis(10));
    suspend(&site.daemon)?;
    fs::remove_file(&flow_map)?;
    BpfMap::of_sockets(4)?.pin(&flow_map)?;
    site.daemon.signal(libc::SIGCONT)?;
    let line = site.daemon.wait_for_log("a pinned file of the packet datapath has gone")?;
    ensure!(line.contains("something else is pinned there") && line.contains("FLOWS"), "{line}");
    let packet = wait_for("the status to say so", PATIENCE, || {
        Some(site.daemon.status().ok()?.datapaths.packet).filter(|packet| packet.reason.is_some())
    })?;
    ensure!(packet.available, "{packet:?}");
    flows.iter_mut().try_for_each(live_on)?;
    fs::remove_file(&flow_map)?;
    repinned(&site.daemon, 1.0)?;
    wait_for("the status to have nothing to say", PATIENCE, || {
        site.daemon.status().ok()?.datapaths.packet.reason.is_none().then_some(())
    })?;
    next_daemon_finds_them(site, &config, &mut flows)
}
