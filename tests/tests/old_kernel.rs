//! A kernel that is too old for the BPF programs: everything is copied, and what is said of that names the kernel that would do.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::command::{run, snisplice};
use harness::daemon::Datapath;
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{RawSite, config};
use proxy_common::kernels::{Kernel, Part};
use serde_json::Value;

const BYTES: u64 = 4 * 1024 * 1024;

const PARTS: [(Part, &str); 4] = [
    (Part::Sockmap, "datapath sockmap"),
    (Part::Local, "datapath local"),
    (Part::Packet, "datapath packet"),
    (Part::Guard, "guard"),
];

/// Whether this kernel is older than all that they need. If not, says that the test is skipped.
fn is_too_old() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = Kernel { release: release.trim(), build: "", signature: None }.version();
    let version = version.context("the kernel does not say its version")?;
    let is_old = PARTS.into_iter().all(|(part, _)| version < part.oldest());
    if !is_old {
        println!("SKIPPED: this kernel is not too old for anything: Linux {}", release.trim());
    }
    Ok(is_old)
}

fn oldest(part: Part) -> String {
    let oldest = part.oldest();
    format!("use Linux {}.{} or later", oldest.major, oldest.minor)
}

fn reason<'a>(status: &'a Value, place: &str) -> Result<&'a str> {
    status.pointer(place).and_then(Value::as_str).with_context(|| format!("no {place} in {status}"))
}

#[test]
fn everything_is_copied_and_the_remedies_name_the_kernel_that_would_do() -> Result<()> {
    if !is_too_old()? {
        return Ok(());
    }
    let pins = Pins::create()?;
    // By name, since "auto" would not even try.
    let site = RawSite::start(&config().datapath(Datapath::Packet).packet(&pins, "1s").guard("client", ""))?;
    let status: Value = serde_json::from_str(&site.daemon.get("/api/v1/status")?.body)?;
    for (part, place) in [
        (Part::Sockmap, "/datapaths/sockmap/reason"),
        (Part::Packet, "/datapaths/packet/reason"),
        (Part::Guard, "/guard/reason"),
    ] {
        let reason = reason(&status, place)?;
        ensure!(reason.contains(&oldest(part)), "{place}: {reason}");
    }
    let line = site.daemon.wait_for_log("no guard: all packets are let in")?;
    ensure!(line.contains("ERROR") && line.contains(&oldest(Part::Guard)), "{line}");

    let (mut client, mut server) = site.flow()?;
    let address = client.local_addr()?;
    transfer(&mut client, &mut server, 1, BYTES)?;
    transfer(&mut server, &mut client, 2, BYTES)?;
    drop((client, server));
    ensure!(site.daemon.wait_for_access(address)?.datapath.as_deref() == Some("copy"), "not copied");
    site.daemon.stop()
}

#[test]
fn doctor_says_what_is_missing_in_few_words_on_a_small_screen() -> Result<()> {
    if !is_too_old()? {
        return Ok(());
    }
    let pins = Pins::create()?;
    let doctor = |more: &[&str]| {
        let mut command = std::process::Command::new(snisplice()?);
        run(command.args(["doctor", "--pins"]).arg(pins.path()).args(more), b"")?.success()
    };
    let text = doctor(&[])?;
    for line in text.lines() {
        ensure!(line.chars().count() <= 80, "too long for a small screen: {line}");
    }
    let report: Value = serde_json::from_str(&doctor(&["--json"])?)?;
    for (part, check) in PARTS {
        let findings = report["findings"].as_array().context("no findings")?;
        let finding = findings.iter().find(|finding| finding["check"] == check).context(check)?;
        let words = |name: &str| finding[name].as_str().unwrap_or_default();
        ensure!(words("remedy").contains(&oldest(part)), "{check}: {finding}");
        ensure!(words("found").len() < 200 && !words("found").contains("processed"), "{check}: {finding}");
    }
    Ok(())
}
