//! Where the guard is attached, and what takes it away again.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::command::run;
use harness::daemon::Launch;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::{Namespace, Topology};
use harness::pins::Pins;
use harness::site::{RawSite, config};
use harness::wire::{Guard, Program, detach_links_of, interface_number};

/// What `ip` says of an interface.
fn link(namespace: &Namespace, name: &str) -> Result<String> {
    run(namespace.command("ip").args(["-details", "link", "show", name]), b"")?.success()
}

#[test]
fn without_a_section_nothing_is_attached() -> Result<()> {
    let site = RawSite::start(&config())?;
    assert!(!link(&site.net.edge, "client")?.contains("xdp"));
    assert_eq!(site.daemon.get("/api/v1/guard")?.status, 409);
    let answer = Guard::command(&site.daemon, &["list"])?;
    assert_eq!(answer.code, Some(69));
    assert!(answer.stderr.contains("the configuration has no [guard]"), "{answer:?}");
    site.daemon.stop()
}

#[test]
fn each_mode_is_what_the_kernel_shows_and_ends_with_the_daemon() -> Result<()> {
    for (mode, actual, shown) in
        [("auto", "native", " xdp "), ("native", "native", " xdp "), ("generic", "generic", "xdpgeneric")]
    {
        let site = RawSite::start(&config().guard("client", &format!("mode = \"{mode}\"\n")))?;
        assert_eq!(Guard::attached(&site.daemon, "client")?, actual);
        let link_now = || link(&site.net.edge, "client");
        ensure!(link_now()?.contains(shown), "{mode}: {}", link_now()?);
        let metrics = site.daemon.metrics()?;
        let attached =
            |mode| metrics.sum("snisplice_guard_attached", &[("interface", "client"), ("mode", mode)]);
        assert!(
            (attached(actual) - 1.0).abs() < 0.1
                && (attached("native") + attached("generic") - 1.0).abs() < 0.1
        );
        let status = site.daemon.get("/api/v1/status")?.body;
        ensure!(status.contains(&format!("\"mode\":\"{actual}\"")), "{status}");
        // A flow still comes through.
        site.flow()?;
        let RawSite { daemon, net, .. } = site;
        if mode == "auto" {
            daemon.wait_for_idle()?;
            daemon.stop()?;
        } else {
            // Killed.
            drop(daemon);
        }
        // The kernel takes it away in its own time.
        wait_for("the program to be gone", PATIENCE, || {
            link(&net.edge, "client").ok().filter(|text| !text.contains("xdp")).map(drop)
        })?;
    }
    Ok(())
}

#[test]
fn it_follows_an_interface_that_goes_and_comes() -> Result<()> {
    let net = Topology::create()?;
    let ip = |arguments: &[&str]| run(net.edge.command("ip").args(arguments), b"")?.success().map(drop);
    let daemon = Launch::new()?.start(&net.edge, &config().guard("late", "deny = [\"203.0.113.0/24\"]\n"))?;
    let guard = Guard::of(&daemon)?;
    assert_eq!(guard.mode("late"), None);
    ensure!(format!("{guard:?}").contains("there is no such interface"), "{guard:?}");
    // One warning at start, and one at each change.
    let warnings = |text: &str| {
        let is_one = |line: &&String| line.contains("WARN") && line.contains("late") && line.contains(text);
        daemon.log().iter().filter(is_one).count()
    };
    let (absent, gone, appeared) =
        ("there is no such interface", "the interface has gone", "the interface has appeared");
    daemon.wait_for_log(absent)?;
    for round in 1..=2 {
        ip(&["link", "add", "late", "type", "veth", "peer", "name", "late-peer"])?;
        assert_eq!(Guard::attached(&daemon, "late")?, "native");
        ip(&["link", "del", "late"])?;
        Guard::wait(&daemon, "the guard to notice", |guard| guard.mode("late").is_none())?;
        wait_for("the warnings", PATIENCE, || (warnings(gone) == round).then_some(()))?;
        assert_eq!(warnings(appeared), round);
    }
    assert_eq!(warnings(absent), 1);
    // An address that comes later is a listener's as well, since it listens on all.
    ip(&["address", "add", "192.0.2.77/24", "dev", "client"])?;
    let frame = harness::guard::frame::Frame::new(
        "203.0.113.9".parse()?,
        "192.0.2.77".parse()?,
        443,
        harness::guard::frame::ACK,
    );
    let program = guard.program()?;
    let verdict = |wanted| {
        wait_for("the address to be known or forgotten", PATIENCE, || {
            (program.run(&frame.bytes(), 1).ok()?.verdict == wanted).then_some(())
        })
    };
    verdict(1)?;
    ip(&["address", "del", "192.0.2.77/24", "dev", "client"])?;
    verdict(2)?;
    daemon.stop()
}

#[test]
fn what_somebody_else_has_detached_is_attached_again() -> Result<()> {
    let site = RawSite::start(&config().guard("client", ""))?;
    Guard::attached(&site.daemon, "client")?;
    detach_links_of(Guard::of(&site.daemon)?.program)?;
    // The daemon may see it, and attach the guard again, before anybody else looks.
    site.daemon.wait_for_log("another program has detached the guard")?;
    wait_for("the guard to come back", PATIENCE, || {
        link(&site.net.edge, "client").ok().filter(|text| text.contains("xdp")).map(drop)
    })?;
    site.daemon.stop()
}

/// Whatever holds it: a link in either mode, or the interface itself, as with the dispatcher of libxdp and with `ip link set xdp`.
#[test]
fn another_program_is_left_alone_and_named_and_the_guard_comes_when_it_goes() -> Result<()> {
    for held_by in ["native link", "generic link", "native interface", "generic interface"] {
        let (net, pins) = (Topology::create()?, Pins::create()?);
        let other = Program::that_says(2)?;
        let mode = if held_by.starts_with("native") { "xdpdrv" } else { "xdpgeneric" };
        let ip = |arguments: &[&str]| run(net.edge.command("ip").args(arguments), b"")?.success().map(drop);
        let held = if held_by.ends_with("link") {
            let is_native = mode == "xdpdrv";
            Some(net.edge.enter(|| Ok(other.attach(interface_number("client")?, is_native)?))?)
        } else {
            let path = pins.path().join("other");
            other.pin(&path)?;
            ip(&["link", "set", "dev", "client", mode, "pinned", &path.display().to_string()])?;
            None
        };
        let site = config().guards(&["client", "backend"], "");
        let daemon = Launch::new()?.start(&net.edge, &site)?;
        let guard = Guard::of(&daemon)?;
        let reason =
            guard.interfaces.iter().find(|one| one.name == "client").and_then(|one| one.reason.clone());
        let reason = reason.context("no reason")?;
        ensure!(reason.contains("another XDP program is there"), "{held_by}: {reason}");
        daemon.wait_for_log("another XDP program is there")?;
        // It goes on elsewhere.
        assert_eq!(Guard::attached(&daemon, "backend")?, "native");
        if held.is_none() {
            ip(&["link", "set", "dev", "client", mode, "off"])?;
        }
        drop(held);
        assert_eq!(Guard::attached(&daemon, "client")?, "native", "{held_by}");
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_pinned_guard_outlives_the_daemon_and_is_taken_over() -> Result<()> {
    let net = Topology::create()?;
    // Mounted in this process' own namespace of mounts, which `ip netns exec` copies.
    let folder = harness::workdir::WorkDir::create()?;
    let place = folder.file("bpf");
    fs::create_dir(&place)?;
    let path = place.display().to_string();
    run(std::process::Command::new("mount").args(["-t", "bpf", "bpf", &path]), b"")?.success()?;
    let result = taken_over(&net, &path);
    run(std::process::Command::new("umount").arg(&path), b"")?.success()?;
    result
}

fn taken_over(net: &Topology, path: &str) -> Result<()> {
    let config = config().guard("client", &format!("pin = \"{path}\"\n"));
    let first = Launch::new()?.start(&net.edge, &config)?;
    Guard::attached(&first, "client")?;
    let program = Guard::of(&first)?.program;
    first.stop()?;
    ensure!(link(&net.edge, "client")?.contains(&format!("prog/xdp id {program}")), "it is gone");
    let second = Launch::new()?.start(&net.edge, &config)?;
    Guard::attached(&second, "client")?;
    let program = Guard::of(&second)?.program;
    ensure!(link(&net.edge, "client")?.contains(&format!("prog/xdp id {program}")), "not taken over");
    second.stop()?;
    fs::remove_file(std::path::Path::new(path).join("guard-client-native"))?;
    wait_for("the program to be gone", PATIENCE, || {
        link(&net.edge, "client").ok().filter(|text| !text.contains("xdp")).map(drop)
    })
}
