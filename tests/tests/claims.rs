//! What README.md and docs/ promise, against the binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::command::{run, snisplice};
use harness::daemon::{Datapath, Flow, cli};
use harness::peers::raw::transfer;
use harness::site::{RawSite, config};
use harness::workdir::WorkDir;

fn document(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The words in a document that start with `prefix`, as far as they are made of what names are made of.
fn words<'text>(text: &'text str, prefix: &str) -> BTreeSet<&'text str> {
    let outside = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(outside).filter(|word| word.starts_with(prefix) && word.len() > prefix.len()).collect()
}

#[test]
fn the_example_of_the_readme_is_a_valid_configuration() -> Result<()> {
    let readme = document("README.md")?;
    let (_, rest) = readme.split_once("```toml\n").context("README.md has no example")?;
    let (example, _) = rest.split_once("```").context("the example has no end")?;
    let work = WorkDir::create()?;
    let file = work.write("readme.toml", example)?.display().to_string();
    let checked = run(&mut cli(&["check", "--config", &file])?, b"")?;
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    for (name, upstream) in
        [("polling.octopus.example.com", "octopus-polling"), ("octopus.example.com", "octopus-web")]
    {
        let answer =
            run(&mut cli(&["route", "--config", &file, "--sni", name, "--json"])?, b"")?.success()?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        assert_eq!(answer["upstream"].as_str(), Some(upstream), "{name}");
    }
    Ok(())
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() -> Result<()> {
    let documented = document("docs/operations.md")?;
    let documented: BTreeSet<&str> = words(&documented, "snisplice_").into_iter().collect();
    let site = RawSite::start(&config().datapath(Datapath::Sockmap).hold("0s"))?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    // A client that has ended already is copied: a fallback. A server that is gone: a failure.
    let fallback = site.connect()?;
    harness::peers::raw::finish(&fallback)?;
    drop((client, server, fallback));
    site.daemon.wait_for_idle()?;
    let without_sockets = RawSite::start(&config().datapath(Datapath::Packet))?;
    let (mut client, mut server) = without_sockets.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    let left = |flow: &Flow| flow.datapath.as_deref() == Some("packet");
    without_sockets.daemon.wait_for_flow("the flow to leave its sockets", left)?;
    drop((client, server));
    let text =
        [&site, &without_sockets].map(|site| Ok::<_, anyhow::Error>(site.daemon.get("/metrics")?.body));
    let text = text.into_iter().collect::<Result<String>>()?;
    let exported: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(exported.len() > 12, "{exported:?}");
    let missing: Vec<_> = exported.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/operations.md does not have {missing:?}");
    // These need an event that this test does not bring about.
    let rare = [
        "snisplice_datapath_fallbacks_total",
        "snisplice_upstream_connect_failures_total",
        "snisplice_kernel_",
    ];
    let unknown: Vec<_> = documented.difference(&exported).filter(|name| !rare.contains(*name)).collect();
    assert!(unknown.is_empty(), "docs/operations.md has {unknown:?}");
    without_sockets.daemon.stop()?;
    site.daemon.stop()
}

#[test]
fn the_demo_finds_all_as_it_should_be() -> Result<()> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_snisplice-demo"));
    // The demo shows what the host does by itself, whatever the other tests are about.
    demo.env_remove("SNISPLICE_TEST_DATAPATH");
    let ended = run(demo.args(["--json", "--snisplice"]).arg(snisplice()?), b"")?.success()?;
    let report: serde_json::Value = serde_json::from_str(&ended)?;
    assert_eq!(report["ok"].as_bool(), Some(true), "{ended}");
    let (carried, all) = (report["kernel_bytes"].as_u64(), report["bytes"].as_u64());
    assert!(carried > Some(0) && carried <= all, "{ended}");
    assert_eq!(report["outlived"]["polls_without_daemon"].as_u64(), Some(25), "{ended}");
    Ok(())
}
