//! Many more connections at once than descriptors allow: they wait for their turn, and nothing fails.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::daemon::Launch;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::edge;
use harness::site::{RawSite, SHARED_PORT, config, polling_hello};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const FILES: [&str; 2] = ["prlimit", "--nofile=512:512"];
const MOST_FILES: usize = 512;
const CLIENTS: usize = 1500;

/// Clients that have said what they want, and whom nobody has answered yet.
fn crowd(site: &RawSite) -> Result<Vec<TcpStream>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let hello = polling_hello();
    site.net.client.enter(|| {
        let one = |_| {
            let mut client = TcpStream::connect_timeout(&edge(SHARED_PORT), PATIENCE)?;
            client.write_all(&hello)?;
            client.set_nonblocking(true)?;
            Ok(client)
        };
        (0..CLIENTS).map(one).collect()
    })
}

/// Whether its one byte has come.
fn is_served(client: &mut TcpStream) -> Result<bool> {
    match client.read(&mut [0]) {
        Ok(1) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        other => bail!("a client was not served: {other:?}"),
    }
}

/// What must hold at every moment.
fn look(site: &RawSite, limit: u64) -> Result<()> {
    let files = format!("/proc/{}/fd", site.daemon.pid());
    let open = std::fs::read_dir(files)?.count();
    ensure!(open < MOST_FILES, "{open} descriptors are open");
    ensure!(site.daemon.get("/livez")?.status == 200, "the socket");
    ensure!(site.daemon.get_over_tcp("/livez")?.status == 200, "the address");
    let active = site.daemon.status()?.connections.active;
    ensure!(active <= limit, "{active} connections of {limit}");
    Ok(())
}

/// Answers each with one byte, and closes.
fn serve(site: &RawSite, is_over: &AtomicBool) -> Result<()> {
    let mut hello = vec![0; polling_hello().len()];
    while !is_over.load(Ordering::Relaxed) {
        if let Some(mut server) = site.polling.accept_within(Duration::from_millis(50))? {
            server.read_exact(&mut hello).context("reading a hello")?;
            server.write_all(b"w")?;
        }
    }
    Ok(())
}

#[test]
fn a_burst_beyond_the_limit_on_open_files_waits_and_is_served() -> Result<()> {
    let site = RawSite::launch(&config(), &Launch::new()?.under(&FILES))?;
    let sum = |name: &str| Ok::<_, anyhow::Error>(site.daemon.metrics()?.count(name, &[]));
    let limit = sum("snisplice_connections_limit")?;
    ensure!((50..250).contains(&limit), "{limit}");
    let mut clients = crowd(&site)?;
    wait_for("the daemon to be full", PATIENCE, || {
        let paused = sum("snisplice_accept_paused").is_ok_and(|paused| paused == 1);
        (paused && site.daemon.status().ok()?.connections.active == limit).then_some(())
    })?;
    look(&site, limit)?;

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&site, &is_over));
        let served = wait_for("all clients to be served", 6 * PATIENCE, || {
            let mut waiting = Vec::new();
            for mut client in clients.drain(..) {
                match is_served(&mut client) {
                    Ok(true) => {}
                    Ok(false) => waiting.push(client),
                    Err(error) => return Some(Err(error)),
                }
            }
            clients = waiting;
            if let Err(error) = look(&site, limit) {
                return Some(Err(error));
            }
            clients.is_empty().then_some(Ok(()))
        });
        is_over.store(true, Ordering::Relaxed);
        server.join().ok().context("the server panicked")??;
        served?
    })?;
    for name in ["snisplice_accept_errors_total", "snisplice_upstream_connect_failures_total"] {
        assert_eq!(sum(name)?, 0, "{name}");
    }
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}
