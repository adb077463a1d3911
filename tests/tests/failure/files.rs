//! No more descriptors: connections wait, and the operator is still let in.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::{Result, ensure};
use harness::daemon::{Daemon, Datapath, Launch};
use harness::deadline::{PATIENCE, wait_for};
use harness::peers::raw::transfer;
use harness::pins::Pins;
use harness::site::{RawSite, config, polling_hello};

/// Enough for the daemon itself and a handful of flows.
const FILES: [&str; 2] = ["prlimit", "--nofile=288:288"];

fn wait_for_readiness(daemon: &Daemon, status: u16) -> Result<String> {
    wait_for(&format!("/readyz to answer {status}"), PATIENCE, || {
        let answer = daemon.get("/readyz").ok()?;
        (answer.status == status).then_some(answer.body)
    })
}

fn gauge(daemon: &Daemon, name: &str) -> Result<u64> {
    let samples = daemon.metrics()?;
    Ok(samples.sum(name, &[]).to_string().parse()?)
}

/// Sends a hello that nobody answers as long as the connection waits.
fn knock(site: &RawSite) -> Result<TcpStream> {
    let mut client = site.connect()?;
    client.write_all(&polling_hello())?;
    Ok(client)
}

#[test]
fn without_descriptors_connections_wait_and_the_admin_endpoint_answers() -> Result<()> {
    let site = RawSite::launch(&config(), &Launch::new()?.under(&FILES))?;
    let limit = gauge(&site.daemon, "snisplice_connections_limit")?;
    assert!((20..120).contains(&limit), "{limit}");
    let mut flows: Vec<_> = (0..limit).map(|_| site.flow()).collect::<Result<_>>()?;

    assert_eq!(wait_for_readiness(&site.daemon, 503)?, "no room for more connections\n");
    let waiting: Vec<_> = (0..8).map(|_| knock(&site)).collect::<Result<_>>()?;
    for path in ["/livez", "/metrics", "/api/v1/status"] {
        assert_eq!(site.daemon.get(path)?.status, 200, "{path}");
        assert_eq!(site.daemon.get_over_tcp(path)?.status, 200, "{path}");
    }
    assert_eq!(site.daemon.get("/api/v1/flows")?.status, 200);
    assert_eq!(gauge(&site.daemon, "snisplice_accept_paused")?, 1);
    assert_eq!(gauge(&site.daemon, "snisplice_connections_accepted_total")?, limit);
    assert!(site.polling.is_untouched(), "a connection was served without room");
    for (client, server) in &mut flows {
        transfer(client, server, 1, 10_000)?;
    }

    // One in sixteen go, so that as many of those that wait get in.
    let gone = usize::try_from(limit / 16)?.max(1);
    ensure!(gone < waiting.len(), "{gone}");
    flows.truncate(flows.len() - gone);
    let hello = polling_hello();
    let mut served: Vec<_> = (0..gone).map(|_| site.polling.accept_after(&hello)).collect::<Result<_>>()?;
    for server in &mut served {
        server.write_all(b"welcome")?;
    }
    drop((flows, served));
    let rest: Vec<_> =
        (gone..waiting.len()).map(|_| site.polling.accept_after(&hello)).collect::<Result<_>>()?;
    drop((rest, waiting));
    site.daemon.wait_for_idle()?;
    assert_eq!(wait_for_readiness(&site.daemon, 200)?, "ready\n");
    assert_eq!(gauge(&site.daemon, "snisplice_accept_paused")?, 0);
    assert_eq!(gauge(&site.daemon, "snisplice_accept_errors_total")?, 0);
    let complaints = site.daemon.log().iter().filter(|line| line.contains("no room for more")).count();
    assert_eq!(complaints, 1, "one line in ten seconds");
    site.daemon.stop()
}

/// What hands a flow over works with the sockets that copy it.
#[test]
fn flows_that_may_leave_their_sockets_take_no_more_descriptors() -> Result<()> {
    let pins = Pins::create()?;
    let config = config().datapath(Datapath::Packet).packet(&pins, "1h");
    let site = RawSite::launch(&config, &Launch::new()?.under(&["prlimit", "--nofile=400:400"]))?;
    ensure!(site.daemon.status()?.datapaths.packet.available, "{:?}", site.daemon.status()?.datapaths);
    let limit = gauge(&site.daemon, "snisplice_connections_limit")?;
    assert!((30..150).contains(&limit), "{limit}");
    let mut flows: Vec<_> = (0..limit).map(|_| site.flow()).collect::<Result<_>>()?;
    for (client, server) in &mut flows {
        transfer(client, server, 1, 10_000)?;
    }
    assert_eq!(site.daemon.get("/livez")?.status, 200);
    assert_eq!(gauge(&site.daemon, "snisplice_accept_errors_total")?, 0);
    drop(flows);
    site.daemon.stop()
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() -> Result<()> {
    let site = RawSite::launch(&config(), &Launch::new()?.under(&["prlimit", "--nofile=160:528"]))?;
    let line = site.daemon.wait_for_log("raised the limit on open files")?;
    assert!(line.contains("\"now\":528"), "{line}");
    let limit = gauge(&site.daemon, "snisplice_connections_limit")?;
    assert!((100..200).contains(&limit), "{limit}");
    site.daemon.stop()
}
