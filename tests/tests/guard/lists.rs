//! The deny file.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::command::run;
use harness::daemon::{Launch, cli};
use harness::guard::frame::{ACK, Frame};
use harness::guard::random::Numbers;
use harness::netns::{EDGE_IPV4, EDGE_IPV6, Topology};
use harness::site::config;
use harness::wire::{Guard, Program};
use harness::workdir::WorkDir;

const NETWORKS: usize = 100_000;

/// As many networks of both families, none of which has 192.0.2.0/24 or 2001:db8::/32.
fn networks(seed: u64) -> Result<String> {
    let mut numbers = Numbers::new(seed);
    let mut text = "# made for a test\n".to_owned();
    for n in 0..NETWORKS {
        let [a, b, c, d, e, f, ..] = numbers.number().to_ne_bytes();
        let written = if n % 4 == 0 {
            writeln!(text, "2a{a:02x}:{b:02x}{c:02x}:{d:02x}{e:02x}::/48 # {f}")
        } else {
            writeln!(text, "{}.{b}.{c}.{}/{}", a % 180 + 1, d & 0xf0, 28 + f % 5)
        };
        written?;
    }
    Ok(text)
}

fn is_denied(program: &Program, from: &str) -> Result<bool> {
    let from = from.parse()?;
    let to = if matches!(from, std::net::IpAddr::V4(_)) { EDGE_IPV4 } else { EDGE_IPV6 };
    Ok(program.run(&Frame::new(from, to, 443, ACK).bytes(), 1)?.verdict == 1)
}

#[test]
fn a_hundred_thousand_networks_are_loaded_within_two_seconds_and_swapped_at_once() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = work.write("deny.txt", networks(1)? + "192.0.2.0/24\n2001:db8:7::/48\n")?;
    let lines = format!("deny_file = \"{}\"\n", file.display());
    let daemon = Launch::new()?.start(&net.edge, &config().guard("client", &lines))?;
    let guard = Guard::of(&daemon)?;
    assert_eq!(guard.deny_file, NETWORKS as u64 + 2);
    let program = guard.program()?;
    let denied = |from: &str| is_denied(&program, from);
    assert!(denied("192.0.2.9")? && denied("2001:db8:7::9")? && !denied("192.0.3.9")?);

    let mut times = Vec::new();
    for (seed, own) in [(2, "192.0.3.0/24\n"), (3, "192.0.2.0/24\n")] {
        // As an editor of Windows writes it.
        let text = networks(seed)?.replace("\n", "\r\n");
        fs::write(&file, format!("\u{feff}{text}{own}"))?;
        let begun = daemon.processor_time()?;
        Guard::command(&daemon, &["reload"])?.success()?;
        times.push(daemon.processor_time()? - begun);
        assert_eq!((denied("192.0.2.9")?, denied("192.0.3.9")?), (seed == 3, seed == 2));
        assert!(!denied("2001:db8:7::9")?);
    }
    // Other programs may keep the machine busy, so that the time of the processor counts.
    let slowest = times.iter().max().context("no time")?;
    ensure!(*slowest < Duration::from_secs(2), "{times:?}");
    println!("100,000 networks were read and swapped in {times:?} of processor time");

    // What is not as it should be changes nothing.
    fs::write(&file, "192.0.3.0/24\nnonsense\n10.0.0.1/8\n")?;
    let refused = Guard::command(&daemon, &["reload"])?;
    ensure!(refused.code == Some(69) && refused.stderr.contains("deny.txt:2:1: "), "{refused:?}");
    assert!(denied("192.0.2.9")? && !denied("192.0.3.9")?);
    let checked = run(&mut cli(&["check", "--config", &daemon.config_file().display().to_string()])?, b"")?;
    ensure!(checked.code == Some(78) && checked.stderr.contains("deny.txt:3:1: "), "{checked:?}");
    daemon.stop()
}

/// A packet never meets a half-made list: what both lists have is denied all the time.
#[test]
fn a_swap_is_atomic() -> Result<()> {
    let net = Topology::create()?;
    let work = WorkDir::create()?;
    let file = work.write("deny.txt", networks(1)? + "192.0.2.0/24\n")?;
    let lines = format!("deny_file = \"{}\"\n", file.display());
    let daemon = Launch::new()?.start(&net.edge, &config().guard("client", &lines))?;
    let program = Guard::of(&daemon)?.program()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                ensure!(is_denied(&program, "192.0.2.200")?, "let through after {looks} looks");
                ensure!(!is_denied(&program, "192.0.3.200")?, "denied after {looks} looks");
                looks += 1;
            }
            Ok(looks)
        });
        for seed in 2..8 {
            fs::write(&file, networks(seed)? + "192.0.2.0/25\n192.0.2.128/25\n")?;
            Guard::command(&daemon, &["reload"])?.success()?;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let looks: u64 = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        ensure!(looks > 1000, "{looks}");
        Ok::<_, anyhow::Error>(())
    })?;
    daemon.stop()
}
