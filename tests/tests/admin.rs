//! What the admin interface tells of a living daemon.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Error, Result};
use harness::command::snisplice;
use harness::daemon::{ADMIN_PORT, Datapath, Launch, check_classic};
use harness::deadline::PATIENCE;
use harness::keyed;
use harness::peers::raw::transfer;
use harness::site::{RawSite, config};

#[test]
fn the_admin_address_answers_like_the_socket() -> Result<()> {
    let site = RawSite::start(&config())?;
    for path in ["/livez", "/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(site.daemon.get(path)?.status, 200, "{path}");
        assert_eq!(site.daemon.get_over_tcp(path)?.status, 200, "{path}");
    }
    assert_eq!(site.daemon.get("/nowhere")?.status, 404);
    let status = site.daemon.status()?;
    assert_eq!((status.pid, status.phase.as_str()), (site.daemon.pid(), "running"));
    let names: Vec<_> = status.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["tls", "legacy"]);
    assert_eq!(site.daemon.metrics()?.samples_of("snisplice_build_info").len(), 1);
    site.daemon.stop()
}

#[test]
fn a_flow_is_listed_while_it_lives() -> Result<()> {
    let site = RawSite::start(&config())?;
    assert_eq!(site.daemon.flows()?.len(), 0);
    let (mut client, server) = site.flow()?;
    keyed::send(&mut client, 1, 1000)?;
    let address = client.local_addr()?.to_string();
    let flow = site.daemon.wait_for_flow("the flow with its bytes", |flow| flow.bytes_in > 1000)?;
    assert_eq!((&flow.client, flow.listener.as_str()), (&address, "tls"), "{flow:?}");
    assert_eq!(flow.route.as_deref(), Some("polling"), "{flow:?}");
    assert_eq!(flow.server, Some(server.local_addr()?.to_string()), "{flow:?}");
    assert_eq!(flow.upstream_local, Some(server.peer_addr()?.to_string()), "{flow:?}");
    assert_eq!(site.daemon.status()?.connections.active, 1);
    drop((client, server));
    site.daemon.wait_for_idle()?;
    assert_eq!(site.daemon.flows()?.len(), 0);
    site.daemon.stop()
}

/// As one that still loads its programs does, it accepts nothing for a while, though it listens.
#[test]
fn a_command_waits_for_a_daemon_that_does_not_answer_yet_and_says_so() -> Result<()> {
    let site = RawSite::start(&config())?;
    site.daemon.signal(libc::SIGSTOP)?;
    let mut status = Command::new(snisplice()?);
    status.arg("status").arg("--socket").arg(site.daemon.admin_socket());
    let mut asking = status.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = String::new();
    BufReader::new(asking.stderr.take().context("no pipe")?).read_line(&mut said)?;
    site.daemon.signal(libc::SIGCONT)?;
    let ended = asking.wait_with_output()?;
    assert!(said.starts_with("waiting for the daemon at ") && said.contains("starting"), "{said}");
    let text = String::from_utf8(ended.stdout)?;
    assert!(ended.status.success() && text.contains("running"), "{}\n{text}", ended.status);
    site.daemon.stop()
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() -> Result<()> {
    // With these it has all metrics that there are.
    let site = RawSite::start(&config().datapath(Datapath::Packet).guard("client", ""))?;
    let flow = site.flow()?;
    let ask = |accept: &str| site.daemon.ask_over_tcp("localhost", "/metrics", accept);
    let open = ask("Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n")?;
    assert_eq!((open.status, &open.kind[..28]), (200, "application/openmetrics-text"));
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    let count = open.body.lines().filter(|line| !line.starts_with('#')).count();
    for accept in ["", "Accept: */*\r\n", "Accept: text/plain;version=0.0.4;q=1,*/*;q=0.1\r\n"] {
        let classic = ask(accept)?;
        assert_eq!(classic.kind, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        let samples = check_classic(&classic.body).with_context(|| classic.body.clone())?;
        // A series may have come since, and none goes.
        assert!(samples >= count, "{samples} of {count} samples");
    }
    drop(flow);
    site.daemon.stop()
}

/// A page whose name resolves to a loopback address (DNS rebinding), and a user of the host who may not open the Unix socket.
#[test]
fn the_admin_address_answers_neither_foreign_names_nor_who_the_clients_are() -> Result<()> {
    let site = RawSite::start(&config().admin_line("hosts = [\"metrics.test\"]"))?;
    let status = |host: &str, path: &str| Ok::<_, Error>(site.daemon.ask_over_tcp(host, path, "")?.status);
    for host in ["127.0.0.1:10944", "localhost:10944", "[::1]", "10.0.0.1:10944", "metrics.test"] {
        assert_eq!(status(host, "/metrics")?, 200, "{host}");
    }
    for path in ["/", "/livez", "/metrics", "/api/v1/status", "/nowhere"] {
        assert_eq!(status("evil.example", path)?, 421, "{path}");
    }
    assert_eq!(status("localhost", "/api/v1/flows")?, 403);
    assert_eq!(site.daemon.get("/api/v1/flows")?.status, 200);
    site.daemon.stop()
}

#[test]
fn the_admin_address_lists_clients_where_it_is_configured() -> Result<()> {
    let site = RawSite::start(&config().admin_line("http_clients = true"))?;
    let flows: Vec<_> = (0..70).map(|_| site.flow()).collect::<Result<_>>()?;
    let listed = site.daemon.get_over_tcp("/api/v1/flows")?;
    assert_eq!(listed.status, 200);
    for (client, _) in &flows {
        let address = client.local_addr()?.to_string();
        assert!(listed.body.contains(&address), "{address}: {}", listed.body);
    }
    assert_eq!(site.daemon.flows()?.len(), flows.len());
    drop(flows);
    site.daemon.stop()
}

/// So many that they would take all descriptors.
const CROWD: usize = 300;

/// Ends once the daemon has closed the connection: whether it said that there are too many.
fn is_refused(mut stream: impl Read) -> bool {
    let mut answer = Vec::new();
    // A reset ends it too.
    drop(stream.read_to_end(&mut answer));
    answer.starts_with(b"HTTP/1.1 503 ")
}

/// Connections of which each has sent a part of a request.
fn half_asked<S: Write>(connect: impl Fn() -> Result<S>) -> Result<Vec<S>> {
    let one = |_| {
        let mut stream = connect()?;
        // It may have been refused and closed already.
        drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc"));
        Ok(stream)
    };
    (0..CROWD).map(one).collect()
}

/// All are closed within the limits of the test's sockets, by refusal and by time.
fn expect_closed(streams: Vec<impl Read>) {
    let refused = streams.into_iter().map(is_refused).filter(|refused| *refused).count();
    assert!((1..CROWD).contains(&refused), "{refused} of {CROWD} were refused");
}

#[test]
fn half_sent_requests_take_nothing_from_connections_and_from_the_operator() -> Result<()> {
    let files = ["prlimit", "--nofile=288:288"];
    let site = RawSite::launch(&config(), &Launch::new()?.under(&files))?;
    let address = SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT));
    let by_tcp = site.net.edge.enter(|| {
        half_asked(|| {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    })?;
    assert_eq!(site.daemon.get("/livez")?.status, 200);
    assert_eq!(site.daemon.status()?.phase, "running");
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 10_000)?;

    let by_socket = half_asked(|| {
        let stream = UnixStream::connect(site.daemon.admin_socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?;
    let another = site.flow()?;
    expect_closed(by_tcp);
    assert_eq!(site.daemon.get_over_tcp("/livez")?.status, 200);
    expect_closed(by_socket);
    assert_eq!(site.daemon.get("/livez")?.status, 200);
    transfer(&mut server, &mut client, 2, 10_000)?;
    drop((client, server, another));
    site.daemon.stop()
}
