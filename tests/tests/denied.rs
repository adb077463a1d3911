//! A daemon that may not use BPF, or should not: it copies, serves all the same, and says why.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::{Datapath, Launch, WITHOUT_BPF, WITHOUT_RAW};
use harness::kernel::is_spliced_by_auto;
use harness::netns::{Topology, edge};
use harness::peers::agent::Work;
use harness::peers::raw::transfer;
use harness::peers::web::fetch_page;
use harness::pins::Pins;
use harness::site::{POLLING_NAME, RawSite, SHARED_PORT, Site, WEB_NAME, config};
use harness::workdir::WorkDir;

const BYTES: u64 = 4 * 1024 * 1024;

#[test]
fn without_bpf_the_daemon_copies_and_says_why() -> Result<()> {
    let site = Site::launch(&config().datapath(Datapath::Auto), &Launch::new()?.under(&WITHOUT_BPF))?;
    let status = site.daemon.status()?;
    assert!(!status.datapaths.sockmap.available && status.datapaths.copy.available, "{status:?}");
    let reason = status.datapaths.sockmap.reason.context("no reason given")?;
    assert!(reason.to_lowercase().contains("bpf"), "{reason}");
    let line = site.daemon.wait_for_log("sockmap datapath unavailable")?;
    assert!(line.contains("CAP_BPF"), "{line}");

    site.queues.queue_package("poll://one/", BYTES);
    let mut agent = site.agent(Some(POLLING_NAME), SHARED_PORT, "poll://one/")?;
    assert_eq!(agent.poll()?, Work::Package(BYTES));
    let wire = agent.leave()?;
    let client = wire.stream.local_addr()?;
    drop(wire);
    assert_eq!(site.daemon.wait_for_access(client)?.datapath.as_deref(), Some("copy"));
    fetch_page(&mut site.browser()?, WEB_NAME)?;
    site.stop()
}

/// Runs a program that is told that it runs on Linux 2.6.
const ON_AN_UNKNOWN_KERNEL: [&str; 2] = ["setarch", "--uname-2.6"];

#[test]
fn auto_neither_splices_nor_offloads_on_a_kernel_that_is_not_known_to_be_good() -> Result<()> {
    let launch = Launch::new()?.under(&ON_AN_UNKNOWN_KERNEL);
    let pins = Pins::create()?;
    let site = RawSite::launch(&config().datapath(Datapath::Auto).packet(&pins, "1s"), &launch)?;
    for (what, datapath) in [("are not spliced", "sockmap"), ("are not offloaded", "packet")] {
        let line = site.daemon.wait_for_log(what)?;
        assert!(line.contains("WARN") && line.contains("Linux 2.6"), "{line}");
        assert!(line.contains("datapath = ") && line.contains(datapath), "{line}");
        let told = site.daemon.log().iter().filter(|line| line.contains(what)).count();
        assert_eq!(told, 1, "{what}: one warning");
    }
    let datapaths = site.daemon.status()?.datapaths;
    assert!(datapaths.sockmap.available, "{datapaths:?}");
    for reason in [datapaths.sockmap.reason, datapaths.packet.reason] {
        assert!(reason.as_ref().is_some_and(|text| text.contains("not used by \"auto\"")), "{reason:?}");
    }
    let (mut client, mut server) = site.flow()?;
    // Auto would splice a connection of that age.
    let old = site.daemon.wait_for_flow("a connection that is 3 s old", |flow| flow.age_seconds >= 3.0)?;
    transfer(&mut client, &mut server, 1, BYTES)?;
    assert_eq!(old.datapath.as_deref(), Some("copy"));
    assert_eq!(site.daemon.status()?.kernel.context("no counters")?.redirected_bytes, 0);
    drop((client, server));
    site.daemon.stop()
}

/// Probes and resets of connections without sockets take CAP_NET_RAW: without it none leaves its sockets.
#[test]
fn without_raw_sockets_connections_are_spliced_and_it_is_said_why() -> Result<()> {
    if !is_spliced_by_auto()? {
        return Ok(());
    }
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Auto).packet(&pins, "0s");
    let site = RawSite::launch(&config, &Launch::new()?.under(&WITHOUT_RAW))?;
    let packet = site.daemon.status()?.datapaths.packet;
    let reason = packet.reason.filter(|_| !packet.available).context("packet is available")?;
    assert!(reason.contains("CAP_NET_RAW") && reason.contains("AmbientCapabilities"), "{reason}");
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, BYTES)?;
    site.daemon.wait_for_flow("a spliced flow", |flow| flow.datapath.as_deref() == Some("sockmap"))?;
    transfer(&mut server, &mut client, 2, BYTES)?;
    // Where nobody has its ports.
    let mut doctor = site.net.client.command(WITHOUT_RAW[0]);
    let text = run(doctor.arg(WITHOUT_RAW[1]).arg(snisplice()?).arg("doctor"), b"")?.success()?;
    assert!(text.lines().any(|line| line.contains("CAP_NET_RAW") && line.contains("missing")), "{text}");
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn the_word_of_an_operator_splices_on_any_kernel_that_passes_the_self_test() -> Result<()> {
    let launch = Launch::new()?.under(&ON_AN_UNKNOWN_KERNEL);
    let site = RawSite::launch(&config().datapath(Datapath::Sockmap), &launch)?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, BYTES)?;
    assert!(site.daemon.status()?.kernel.context("no counters")?.redirected_bytes > 0);
    let warned = site.daemon.log().iter().any(|line| line.contains("are not spliced"));
    assert!(!warned, "a warning about auto, which no upstream uses");
    drop((client, server));
    site.daemon.stop()
}

#[test]
fn doctor_warns_of_a_kernel_that_is_not_known_to_be_good() -> Result<()> {
    let (net, pins) = (Topology::create()?, Pins::create()?);
    let [program, argument] = ON_AN_UNKNOWN_KERNEL;
    let mut command = net.edge.command(program);
    command.arg(argument).arg(snisplice()?).args(["doctor", "--json", "--pins"]).arg(pins.path());
    let json = run(&mut command, b"")?.success()?;
    let report: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(report["datapath"].as_str(), Some("copy"), "{report}");
    let findings = report["findings"].as_array().context("no findings")?;
    for (check, kernels) in [("datapath sockmap", "6.1.191"), ("datapath packet", "6.1 to ")] {
        let finding = findings.iter().find(|finding| finding["check"] == check).context(check)?;
        assert_eq!(finding["level"], "warning", "{report}");
        assert!(finding["found"].as_str().is_some_and(|found| found.contains("\"auto\"")), "{report}");
        assert!(finding["remedy"].as_str().is_some_and(|remedy| remedy.contains(kernels)), "{report}");
    }
    Ok(())
}

#[test]
fn doctor_names_what_is_missing() -> Result<()> {
    let net = Topology::create()?;
    let [program, arguments @ ..] = WITHOUT_BPF;
    let doctor = |more: &[&str]| {
        let mut command = net.edge.command(program);
        run(command.args(arguments).arg(snisplice()?).arg("doctor").args(more), b"")?.success()
    };
    let text = doctor(&[])?;
    assert!(text.contains("sockmap"), "{text}");
    assert!(text.contains("CAP_BPF"), "{text}");
    let report: serde_json::Value = serde_json::from_str(&doctor(&["--json"])?)?;
    assert_eq!(report["datapath"].as_str(), Some("copy"), "{report}");
    assert!(report.to_string().contains("CAP_BPF"), "{report}");
    Ok(())
}

/// For a screen of 80 columns, with the verdict in the last line.
fn verdict(text: &str) -> Result<&str> {
    for line in text.lines() {
        ensure!(line.chars().count() <= 80, "too long for a small screen: {line}");
    }
    text.lines().last().context("doctor says nothing")
}

#[test]
fn doctor_says_who_has_the_port_and_that_the_daemon_cannot_start() -> Result<()> {
    let net = Topology::create()?;
    let doctor = || run(net.edge.command(snisplice()?).arg("doctor"), b"");
    let free = doctor()?.success()?;
    assert!(verdict(&free)?.starts_with("verdict: ready"), "{free}");
    assert!(free.contains("the port is free"), "{free}");

    let held = net.edge.listen(edge(SHARED_PORT))?;
    let taken = doctor()?;
    assert_eq!(taken.code, Some(69), "{taken:?}");
    assert!(verdict(&taken.stdout)?.starts_with("verdict: not ready"), "{taken:?}");
    let owner = format!("(pid {})", std::process::id());
    let line = taken.stdout.lines().find(|line| line.contains(&owner)).context("no owner is named")?;
    assert!(line.starts_with("FAIL  listen on 443"), "{line}");

    let work = WorkDir::create()?;
    let file = work.write("snisplice.toml", config().render(&work.file("admin.sock")))?;
    let daemon = run(net.edge.command(snisplice()?).args(["run", "--config"]).arg(file), b"")?;
    assert_eq!(daemon.code, Some(69), "{daemon:?}");
    assert!(daemon.stderr.contains(&owner), "{daemon:?}");
    drop(held);
    Ok(())
}

#[test]
fn doctor_says_whether_connections_can_be_offloaded_and_pins_nothing() -> Result<()> {
    let net = Topology::create()?;
    let doctor = |pins: &Path| {
        let mut command = net.edge.command(snisplice()?);
        run(command.args(["doctor", "--pins"]).arg(pins), b"")?.success()
    };
    let (pins, work) = (Pins::create()?, WorkDir::create()?);
    let text = doctor(&pins.path())?;
    assert!(text.contains("ok    datapath packet   available by "), "{text}");
    assert!(pins.is_empty()?);
    let text = doctor(&work.file("pins"))?;
    assert!(text.contains("warn  datapath packet ") && text.contains("mount -t bpf"), "{text}");
    verdict(&text).map(drop)
}

#[test]
fn colour_is_for_terminals_whose_user_wants_it() -> Result<()> {
    let net = Topology::create()?;
    // `script` gives it a terminal.
    let doctor = |no_color: &str| {
        let mut command = net.edge.command("script");
        command.env("NO_COLOR", no_color).args(["-qec"]).arg(format!("{} doctor", snisplice()?.display()));
        run(command.arg("/dev/null"), b"")?.success()
    };
    assert!(doctor("")?.contains("\x1b[32mok"));
    assert!(!doctor("1")?.contains('\x1b'));
    Ok(())
}

#[test]
fn doctor_finds_a_capable_host_capable() -> Result<()> {
    if !is_spliced_by_auto()? {
        return Ok(());
    }
    let net = Topology::create()?;
    let json = run(net.edge.command(snisplice()?).args(["doctor", "--json"]), b"")?.success()?;
    let report: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(report["datapath"].as_str(), Some("sockmap"), "{report}");
    Ok(())
}

/// The self-test decides what `auto` takes, and a start must not wait for it. Other programs may keep the machine busy
/// for a moment, so that the best of a few counts.
#[test]
fn the_self_test_takes_less_than_300_ms() -> Result<()> {
    let net = Topology::create()?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let json = run(net.edge.command(snisplice()?).args(["doctor", "--json"]), b"")?.success()?;
        let (_, rest) = json.split_once("self-test passed in ").context("doctor does not tell the time")?;
        times.push(rest.split_once(" ms").context("no unit")?.0.parse::<u64>()?);
        if times.last().is_some_and(|took| *took < 300) {
            return Ok(());
        }
    }
    anyhow::bail!("{times:?} ms")
}
