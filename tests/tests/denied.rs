//! A daemon that may not use BPF: it copies, serves all the same, and says why.

use anyhow::{Context as _, Result};
use harness::command::{run, snisplice};
use harness::daemon::{Launch, WITHOUT_BPF};
use harness::netns::Topology;
use harness::peers::agent::Work;
use harness::peers::web::fetch_page;
use harness::site::{POLLING_NAME, SHARED_PORT, Site, WEB_NAME, config};

const BYTES: u64 = 4 * 1024 * 1024;

#[test]
fn without_bpf_the_daemon_copies_and_says_why() -> Result<()> {
    let site = Site::launch(
        &config().datapath(harness::daemon::Datapath::Auto),
        &Launch::new()?.under(&WITHOUT_BPF),
    )?;
    let status = site.daemon.status()?;
    assert!(!status.datapaths.sockmap.available && status.datapaths.copy.available, "{status:?}");
    let reason = status.datapaths.sockmap.reason.context("no reason given")?;
    assert!(reason.to_lowercase().contains("bpf"), "{reason}");
    let line = site.daemon.wait_for_log("no sockmap datapath")?;
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

#[test]
fn doctor_finds_a_capable_host_capable() -> Result<()> {
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
