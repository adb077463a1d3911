//! What happens in the demo, step by step.

use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::daemon::{Daemon, Datapath, Kernel, Launch};
use harness::netns::edge;
use harness::peers::agent::Work;
use harness::peers::tls::{TlsClient, Wire};
use harness::peers::web::{fetch_page, upload};
use harness::site::{self, POLLING_NAME, POLLING_PORT, SHARED_PORT, Site, WEB_NAME, WEB_PORT};

use crate::outlive;
use crate::report::{Burst, KernelCount, Report, Visit};
use crate::text::{Printer, mebibytes};

const AGENTS: u32 = 5;
const PACKAGE: u64 = 64 * 1024 * 1024;
const UPLOAD: u64 = 8 * 1024 * 1024;
/// How many times an agent without a package asks for work.
const POLLS: u32 = 5;

const POLLING: &str = "octopus-polling";
const WEB: &str = "octopus-web";

/// Plays the whole demo. `connections` more TLS connections follow the story.
pub(crate) fn play(launch: &Launch, connections: u32, printer: &Printer) -> Result<Report> {
    printer.step("three network namespaces: client -- edge -- backend");
    // By name, since `auto` would copy for the first second of each, and some are over before.
    let site = Site::launch(&site::config().datapath(Datapath::Sockmap), launch)?;
    printer.step(&format!(
        "in the backend: a polling server on {POLLING_PORT}, a web application on {WEB_PORT}"
    ));
    printer.step("in the edge: snisplice on 443 and, for old agents, on 10943");
    let status = site.daemon.status()?;
    let kernel_unavailable = match status.datapaths.sockmap.available {
        true => None,
        false => Some(status.datapaths.sockmap.reason.unwrap_or_else(|| "no reason given".to_owned())),
    };
    let before = status.kernel.unwrap_or_default();

    printer.step(&format!("{AGENTS} agents poll {POLLING_NAME}:443, one old agent polls :10943"));
    printer.step(&format!("one of them gets a package of {}", mebibytes(PACKAGE)));
    printer.step(&format!("a browser gets a page of {WEB_NAME}:443 and uploads {}", mebibytes(UPLOAD)));
    let visits = visit_all(&site);
    let kernel = KernelCount::between(before, settled_counters(&site.daemon)?);

    let burst = (connections > 0).then(|| {
        printer.step(&format!("{connections} TLS connections in a row"));
        open_in_a_row(&site, connections)
    });
    printer.step("snisplice ends");
    let complaints = site.stop().err().map(|error| format!("{error:#}")).into_iter().collect();
    let outlived = outlive::play(launch, printer)?;
    Ok(Report { visits, burst, kernel_unavailable, kernel, outlived, complaints })
}

/// All connections of the story, at the same time.
fn visit_all(site: &Site) -> Vec<Visit> {
    site.queues.queue_package(&subscription(1), PACKAGE);
    thread::scope(|scope| {
        let mut visitors = Vec::new();
        for number in 1..=AGENTS {
            let port = SHARED_PORT;
            let visitor = scope.spawn(move || visit_as_agent(site, number, Some(POLLING_NAME), port));
            visitors.push((format!("agent {number}"), port, POLLING, visitor));
        }
        let old = scope.spawn(move || visit_as_agent(site, 0, None, POLLING_PORT));
        visitors.push(("old agent".to_owned(), POLLING_PORT, POLLING, old));
        let browser = scope.spawn(move || visit_as_browser(site));
        visitors.push(("browser".to_owned(), SHARED_PORT, WEB, browser));
        visitors
            .into_iter()
            .map(|(who, port, upstream, visitor)| {
                let wire = visitor.join().unwrap_or_else(|_| Err(anyhow!("the client panicked")));
                settle(site, &who, port, upstream, wire)
            })
            .collect()
    })
}

/// Looks up what the daemon says of a connection that has ended.
fn settle(site: &Site, who: &str, port: u16, upstream: &str, wire: Result<Wire>) -> Visit {
    let settled = wire.and_then(|wire| {
        let client = wire.stream.local_addr()?;
        drop(wire.stream.shutdown(std::net::Shutdown::Both));
        let access = site.daemon.wait_for_access(client)?;
        Ok(Visit::settled(who, port, upstream, &wire, &access))
    });
    settled.unwrap_or_else(|error| Visit::failed(who, port, &error))
}

fn subscription(number: u32) -> String {
    format!("poll://agent{number}/")
}

fn visit_as_agent(site: &Site, number: u32, name: Option<&str>, port: u16) -> Result<Wire> {
    let mut agent = site.agent(name, port, &subscription(number))?;
    let mut packages = 0;
    for _ in 0..POLLS {
        if let Work::Package(bytes) = agent.poll()? {
            packages += bytes;
        }
    }
    let expected = if number == 1 { PACKAGE } else { 0 };
    ensure!(packages == expected, "got packages of {packages} bytes instead of {expected}");
    agent.leave()
}

fn visit_as_browser(site: &Site) -> Result<Wire> {
    let mut browser = site.browser()?;
    fetch_page(&mut browser, WEB_NAME)?;
    upload(&mut browser, WEB_NAME, 2, UPLOAD)?;
    let TlsClient { sock, .. } = browser;
    Ok(sock)
}

/// The kernel's counters once all flows have ended.
fn settled_counters(daemon: &Daemon) -> Result<Kernel> {
    daemon.wait_for_idle().context("waiting for the last flow to end")?;
    Ok(daemon.status()?.kernel.unwrap_or_default())
}

fn open_in_a_row(site: &Site, connections: u32) -> Burst {
    let start = Instant::now();
    let mut errors = Vec::new();
    for number in 0..connections {
        let opened = if number % 2 == 0 { open_as_agent(site) } else { open_as_browser(site) };
        if let Err(error) = opened {
            errors.push(format!("connection {number}: {error:#}"));
        }
    }
    let lost = u32::try_from(errors.len()).unwrap_or(u32::MAX);
    errors.truncate(5);
    Burst { opened: connections, lost, seconds: start.elapsed().as_secs_f64(), errors }
}

fn open_as_agent(site: &Site) -> Result<()> {
    let agent = site.agent(Some(POLLING_NAME), SHARED_PORT, "poll://burst/")?;
    ensure!(
        agent.wire().stream.peer_addr()? == edge(SHARED_PORT),
        "connected to another place than the edge"
    );
    Ok(())
}

fn open_as_browser(site: &Site) -> Result<()> {
    fetch_page(&mut site.browser()?, WEB_NAME)
}
