//! Many offloaded connections while they are listed and counted all the time: the daemon must go on telling the kernel that
//! it lives, and new connections must be offloaded as fast as ever.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData, loaded_maps};
use harness::daemon::{Daemon, Launch};
use harness::deadline::{PATIENCE, dawdle, wait_for};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::RawSite;
use proxy_common::abi::packet::{Entry, Key, WATCH, address_of, state, watch};

use crate::figures::Figures;
use crate::million::{self, Flows};

/// New connections, one after the other, without and with somebody who lists.
const NEW: usize = 30;

/// How long the daemon is watched at least.
const WATCHED: Duration = Duration::from_secs(15);

pub(crate) fn measure(launch: &Launch, count: u32, figures: &mut Figures) -> Result<()> {
    let pins = Pins::create()?;
    let mut site = crate::site(launch, &pins, "0s")?;
    million::stop(&mut site.daemon)?;
    let flows = million::fill(&pins, count)?;
    million::start_again(&mut site, launch, &pins, count)?;
    let beat = newest_watch()?;
    for _ in 0..NEW {
        figures.add("many connections: ms until one more is offloaded", offload(&site, &flows)?);
    }
    let (is_over, listed) = (AtomicBool::new(false), AtomicU32::new(0));
    let latest = thread::scope(|scope| {
        let ask = |question: fn(&Daemon) -> Result<()>| {
            let (daemon, is_over, listed) = (&site.daemon, &is_over, &listed);
            scope.spawn(move || -> Result<()> {
                while !is_over.load(Ordering::Relaxed) {
                    question(daemon)?;
                    listed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let asking = [
            ask(|daemon| daemon.command("flows", &["--json"]).map(drop)),
            ask(|daemon| daemon.metrics().map(drop)),
        ];
        let watching = scope.spawn(|| latest_beat(&beat, &is_over));
        let begun = Instant::now();
        let name = "many connections, listed all the time: ms until one more is offloaded";
        let offloaded = (0..NEW).try_for_each(|_| {
            figures.add(name, offload(&site, &flows)?);
            Ok::<_, anyhow::Error>(())
        });
        dawdle(WATCHED.saturating_sub(begun.elapsed()));
        is_over.store(true, Ordering::Relaxed);
        for asking in asking {
            asking.join().map_err(|_| anyhow!("who asks has panicked"))??;
        }
        offloaded?;
        watching.join().map_err(|_| anyhow!("who watches has panicked"))?
    })?;
    ensure!(listed.into_inner() >= 2, "nothing was listed meanwhile");
    figures.add("many connections, listed all the time: ms from beat to beat at most", f64::from(latest));
    million::stop(&mut site.daemon)
}

/// Milliseconds until a new connection is offloaded.
fn offload(site: &RawSite, flows: &Flows) -> Result<f64> {
    let begun = Instant::now();
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 100)?;
    let key = key_of(&client)?.to_words();
    wait_for("the connection to be offloaded", PATIENCE, || {
        let entry = Entry::from_words(&flows.get(&key, 0).ok()?);
        (entry.state == state::FORWARD).then_some(())
    })?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// The key of what the client sends.
fn key_of(client: &TcpStream) -> Result<Key> {
    let port = |address: SocketAddr| address.port().to_be();
    let (source, target) = (client.local_addr()?, client.peer_addr()?);
    Ok(Key {
        source: address_of(source.ip()),
        target: address_of(target.ip()),
        source_port: port(source),
        target_port: port(target),
        padding: 0,
    })
}

/// Words in which the daemon says that it lives: of the map that was made last.
fn newest_watch() -> Result<Array<MapData, u32>> {
    let found = loaded_maps().filter_map(Result::ok).filter(|map| map.name_as_str() == Some(WATCH));
    let newest = found.map(|map| map.id()).max().context("no map of the daemon's signs of life")?;
    Ok(Array::try_from(Map::Array(MapData::from_id(newest)?))?)
}

/// The longest that the last beat was ago, in milliseconds.
fn latest_beat(beat: &Array<MapData, u32>, is_over: &AtomicBool) -> Result<u32> {
    let mut latest = 0;
    while !is_over.load(Ordering::Relaxed) {
        latest = latest.max(million::uptime_ms().wrapping_sub(beat.get(&watch::BEAT, 0)?));
        dawdle(Duration::from_millis(10));
    }
    Ok(latest)
}
