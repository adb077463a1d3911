//! Very many idle flows: made by writing into the map as a daemon would have left it, since no machine of tests has so many ends.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use harness::daemon::{Daemon, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::pins::Pins;
use harness::site::RawSite;
use proxy_common::abi::packet::{ENTRY_WORDS, Entry, FLOWS, KEY_WORDS, Key, address_of, state};

use crate::figures::Figures;

/// How long the next daemon may take to find them all.
const ADOPTION: Duration = Duration::from_secs(120);

pub(crate) type Flows = HashMap<MapData, [u32; KEY_WORDS], [u32; ENTRY_WORDS]>;

pub(crate) fn measure(launch: &Launch, count: u32, figures: &mut Figures) -> Result<()> {
    let pins = Pins::create()?;
    let mut site = crate::site(launch, &pins, "0s")?;
    stop(&mut site.daemon)?;
    let before = kernel_bytes()?;
    let begun = Instant::now();
    let flows = fill(&pins, count)?;
    let count_f = f64::from(count);
    figures.add("filled maps: µs to write a flow", begun.elapsed().as_secs_f64() * 1e6 / count_f);
    figures.add("filled maps: bytes of kernel memory of a flow", (kernel_bytes()? - before) / count_f);
    let begun = Instant::now();
    let found = flows.iter().filter_map(Result::ok).count();
    ensure!(found == 2 * count as usize, "{found} entries of {count} flows");
    figures.add("filled maps: µs to read a flow", begun.elapsed().as_secs_f64() * 1e6 / count_f);
    adopt(&mut site, launch, &pins, count, figures)?;
    // All goes with the file system that it is pinned in.
    Ok(())
}

/// The next daemon takes them over.
fn adopt(site: &mut RawSite, launch: &Launch, pins: &Pins, count: u32, figures: &mut Figures) -> Result<()> {
    let begun = Instant::now();
    start_again(site, launch, pins, count)?;
    figures.add(
        "filled maps: µs of the next daemon to find a flow",
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(count),
    );
    let held = user_bytes(site.daemon.pid())?;
    figures.add("filled maps: bytes of user memory of a flow", held / f64::from(count));
    stop(&mut site.daemon)
}

/// Writes so many flows into the map.
pub(crate) fn fill(pins: &Pins, count: u32) -> Result<Flows> {
    let mut flows = open(pins)?;
    for number in 0..count {
        for (key, entry) in flow(number) {
            flows.insert(key.to_words(), entry.to_words(), 0)?;
        }
    }
    Ok(flows)
}

/// Starts the next daemon, and waits until it has found all flows.
pub(crate) fn start_again(site: &mut RawSite, launch: &Launch, pins: &Pins, count: u32) -> Result<()> {
    site.daemon = launch.clone().patient(ADOPTION).start(&site.net.edge, &crate::config_of(pins, "0s"))?;
    let active = || {
        site.daemon
            .metrics()
            .ok()
            .map(|all| all.sum("snisplice_connections_active", &[("datapath", "packet")]))
    };
    wait_for("the daemon to find all flows", ADOPTION, || (active()? >= f64::from(count)).then_some(()))
}

/// Leaves the flows as they are.
pub(crate) fn stop(daemon: &mut Daemon) -> Result<()> {
    daemon.signal(libc::SIGKILL)?;
    daemon.wait_for_exit(PATIENCE).map(drop)
}

/// The map as the daemon has pinned it.
fn open(pins: &Pins) -> Result<Flows> {
    Ok(HashMap::try_from(Map::HashMap(MapData::from_pin(pins.pinned(FLOWS)?)?))?)
}

/// Both entries of a flow, of a client of its own and by a port and address of its own.
fn flow(number: u32) -> [(Key, Entry); 2] {
    let address = |base: [u8; 2], number: u32| {
        let [_, _, a, b] = number.to_be_bytes();
        address_of(Ipv4Addr::new(base[0], base[1], a, b).into())
    };
    let port = |port: u16| port.to_be();
    let low = u16::try_from(number % 50_000).unwrap_or(0) + 10_000;
    let client = Key {
        source: address([10, 100], number / 50_000),
        target: address([10, 1], 1),
        source_port: port(low),
        target_port: port(443),
        padding: 0,
    };
    let server = Key {
        source: address([10, 2], 2),
        target: address([10, 101], number / 50_000),
        source_port: port(10943),
        target_port: port(low),
        padding: 0,
    };
    let entry = |leg: u8, other: &Key| Entry {
        state: state::FORWARD,
        leg,
        source: other.target,
        target: other.source,
        source_port: other.target_port,
        target_port: other.source_port,
        active_ms: uptime_ms(),
        ..Entry::default()
    };
    [(client, entry(0, &server)), (server, entry(1, &client))]
}

/// The clock of the entries: the flows are not to be old.
pub(crate) fn uptime_ms() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let millis = now.tv_sec.wrapping_mul(1000).wrapping_add(now.tv_nsec / 1_000_000);
    u32::try_from(millis & 0xffff_ffff).unwrap_or(0)
}

/// What the kernel holds for its own objects.
fn kernel_bytes() -> Result<f64> {
    sum("/proc/meminfo", &["Slab:", "Percpu:", "VmallocUsed:"])
}

fn user_bytes(pid: u32) -> Result<f64> {
    sum(&format!("/proc/{pid}/smaps_rollup"), &["Pss:"])
}

/// The sum of some lines of the form `Name:   123 kB`, in bytes.
fn sum(file: &str, names: &[&str]) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    let value = |name: &&str| {
        let line = text.lines().find(|line| line.starts_with(*name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let all: Option<f64> = names.iter().map(value).sum();
    Ok(all.with_context(|| format!("{file} has not all of {names:?}"))? * 1024.0)
}
