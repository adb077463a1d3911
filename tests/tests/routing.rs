//! Which connection goes to which server, seen by the server's certificate or by the bytes that arrive there.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use harness::MIB;
use harness::daemon::{Config, Daemon, Launch};
use harness::hello::{Hello, UNRECOGNIZED_NAME};
use harness::keyed;
use harness::netns::{BACKEND_IPV6, EDGE_IPV6, Topology, backend, edge};
use harness::peers::agent::{Agent, Work};
use harness::peers::backend::{Backend, Echo};
use harness::peers::polling::Polling;
use harness::peers::programs::{OpensslServer, curl, openssl_certificate};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::peers::tls::{self, Identity};
use harness::peers::web::{PAGE, fetch_keyed, fetch_page, upload};
use harness::site::{POLLING_NAME, POLLING_PORT, RawSite, SHARED_PORT, Site, WEB_NAME, config};
use harness::workdir::WorkDir;

#[test]
fn the_name_of_the_hello_chooses_the_server() -> Result<()> {
    let site = Site::start(&config())?;
    let (polling, web) = (site.polling.fingerprint(), site.web.fingerprint());
    let cases = [
        (&["-servername", POLLING_NAME][..], polling),
        (&["-servername", "POLLING.Octopus.TEST."], polling),
        (&["-servername", POLLING_NAME, "-tls1_2"], polling),
        (&["-servername", WEB_NAME], web),
        (&["-servername", "notpolling.octopus.test"], web),
        (&["-servername", "a.polling.octopus.test"], web),
        (&["-servername", "10.1.0.1"], web),
        (&["-noservername"], web),
    ];
    for (arguments, expected) in cases {
        let seen = openssl_certificate(&site.net.client, edge(SHARED_PORT), arguments)?;
        assert_eq!(Some(seen), expected, "{arguments:?}");
    }
    site.stop()
}

#[test]
fn the_hello_arrives_as_it_was_sent() -> Result<()> {
    let site = RawSite::start(&config())?;
    let cases = [
        (Hello::to(POLLING_NAME), &site.polling),
        (Hello::to("PolliNG.OCTOPUS.test."), &site.polling),
        (Hello::to("2001:db8::1"), &site.web),
        (Hello::to("10.1.0.1"), &site.web),
        (Hello::without_name(), &site.web),
        (Hello::to(POLLING_NAME).padded(9000), &site.polling),
    ];
    for (hello, server) in cases {
        let mut client = site.connect()?;
        client.write_all(&hello.bytes())?;
        server.accept_after(&hello.bytes())?;
    }
    assert!(site.polling.is_untouched() && site.web.is_untouched(), "more connections than clients");
    site.daemon.stop()
}

#[test]
fn plain_http_goes_to_the_default_route() -> Result<()> {
    let request = b"GET / HTTP/1.1\r\nHost: octopus.test\r\n\r\n";
    let site = RawSite::start(&config())?;
    let mut client = site.connect()?;
    client.write_all(request)?;
    let mut server = site.web.accept_after(request)?;
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    finish(&server)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(site.daemon.metrics()?.sum("snisplice_clienthello_total", &[("result", "not_tls")]), 1.0);
    Ok(())
}

#[test]
fn old_agents_reach_the_polling_server_by_its_port() -> Result<()> {
    let site = Site::start(&config())?;
    for name in [None, Some(WEB_NAME)] {
        let mut agent = site.agent(name, POLLING_PORT, "poll://old/")?;
        assert_eq!(agent.poll()?, Work::Null);
        let record = {
            let wire = agent.leave()?;
            site.daemon.wait_for_access({
                let client = wire.stream.local_addr()?;
                drop(wire);
                client
            })?
        };
        assert_eq!(
            (record.listener.as_str(), record.upstream.as_deref()),
            ("legacy", Some("octopus-polling"))
        );
    }
    site.stop()
}

#[test]
fn ipv4_and_ipv6_mix_freely() -> Result<()> {
    let net = Topology::create()?;
    let identity = Identity::for_name(POLLING_NAME)?;
    let ipv6_server = SocketAddr::new(BACKEND_IPV6, POLLING_PORT);
    let queues = Polling::new(Duration::from_millis(20));
    let _ipv4 = Backend::tls(&net.backend, backend(POLLING_PORT), &identity, queues.clone())?;
    let _ipv6 = Backend::tls(&net.backend, ipv6_server, &identity, queues)?;
    let config = Config::new()
        .listen("tls", "[::]:443")
        .route("to-ipv4", "four.test", "ipv4")
        .route("to-ipv6", "six.test", "ipv6")
        .upstream("ipv4", backend(POLLING_PORT))
        .upstream("ipv6", ipv6_server);
    let daemon = Daemon::start(&net.edge, &config)?;
    for at in [edge(SHARED_PORT), SocketAddr::new(EDGE_IPV6, SHARED_PORT)] {
        for name in ["four.test", "six.test"] {
            let stream = net.client.connect(at)?;
            let client = stream.local_addr()?;
            let mut agent = Agent::introduce(stream, Some(name), Some(identity.fingerprint()), "poll://x/")?;
            assert_eq!(agent.poll()?, Work::Null, "{name} at {at}");
            agent.leave()?;
            assert_eq!(daemon.wait_for_access(client)?.sni.as_deref(), Some(name), "at {at}");
        }
    }
    daemon.stop()
}

#[test]
fn without_a_default_route_a_client_gets_a_tls_alert() -> Result<()> {
    let net = Topology::create()?;
    let server = RawListener::bind(&net.backend, backend(POLLING_PORT))?;
    let config = Config::new()
        .listen("tls", "[::]:443")
        .route("polling", POLLING_NAME, "octopus-polling")
        .upstream("octopus-polling", backend(POLLING_PORT));
    let daemon = Daemon::start(&net.edge, &config)?;
    for hello in [Hello::to("other.test"), Hello::without_name()] {
        let mut client = net.client.connect(edge(SHARED_PORT))?;
        client.write_all(&hello.bytes())?;
        let mut alert = [0; UNRECOGNIZED_NAME.len()];
        client.read_exact(&mut alert)?;
        assert_eq!(alert, UNRECOGNIZED_NAME);
        expect_ending(&mut client, Ending::Eof)?;
        assert_eq!(daemon.wait_for_access(client.local_addr()?)?.reason, "no_route");
    }
    daemon.wait_for_metric("snisplice_connections_closed_total", &[("reason", "no_route")], 2.0)?;
    assert!(server.is_untouched());
    daemon.stop()
}

#[test]
fn the_web_application_works_for_rustls_and_curl() -> Result<()> {
    let site = Site::start(&config())?;
    let mut browser = site.browser()?;
    fetch_page(&mut browser, WEB_NAME)?;
    fetch_keyed(&mut browser, WEB_NAME, 1, 4 * MIB)?;
    upload(&mut browser, WEB_NAME, 2, 4 * MIB)?;
    drop(browser);

    let at = edge(SHARED_PORT);
    assert_eq!(curl(&site.net.client, at, WEB_NAME, "/", None)?, PAGE);
    let files = WorkDir::create()?;
    let mut data = Vec::new();
    keyed::send(&mut data, 9, 3 * MIB)?;
    let file = files.write("upload", &data)?;
    let answer = curl(&site.net.client, at, WEB_NAME, "/upload/9", Some(&file))?;
    assert_eq!(answer, "received 3145728 bytes\n");
    // The probe that agents send when they register: only the polling server answers it.
    assert!(
        curl(&site.net.client, at, POLLING_NAME, "/handshake", None)?.contains("Octopus Server configured")
    );
    assert!(curl(&site.net.client, at, WEB_NAME, "/handshake", None).is_err());
    site.stop()
}

#[test]
fn openssl_can_be_the_server() -> Result<()> {
    let net = Topology::create()?;
    let (openssl, rustls) = (Identity::for_name("openssl.test")?, Identity::for_name("rustls.test")?);
    let _openssl = OpensslServer::start(&net.backend, backend(7001), &openssl)?;
    let _rustls = Backend::tls(&net.backend, backend(7002), &rustls, Echo)?;
    let config = Config::new()
        .listen("tls", "[::]:443")
        .route("openssl", "openssl.test", "openssl")
        .route("rustls", "rustls.test", "rustls")
        .upstream("openssl", backend(7001))
        .upstream("rustls", backend(7002));
    let daemon = Daemon::start(&net.edge, &config)?;
    let connect = |name, identity: &Identity| {
        tls::connect(net.client.connect(edge(SHARED_PORT))?, Some(name), Some(identity.fingerprint()))
    };
    let cases = [("openssl.test", &openssl, b"olleh\n"), ("rustls.test", &rustls, b"hello\n")];
    for (name, identity, expected) in cases {
        let mut client = connect(name, identity)?;
        client.write_all(b"hello\n")?;
        let mut answer = [0; 6];
        client.read_exact(&mut answer)?;
        assert_eq!(&answer, expected, "{name}");
    }
    assert!(connect("openssl.test", &rustls).is_err(), "the pin of another server was accepted");
    daemon.stop()
}

/// The address means something on one link only. The interface may come after the daemon, and come again with another number.
#[test]
fn a_link_local_server_is_reached_by_its_interface() -> Result<()> {
    const PORT: u16 = 7443;
    let net = Topology::create()?;
    let server = RawListener::bind(&net.backend, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT))?;
    let config = Config::new()
        .listen_to("tls", "[::]:443", "far")
        .upstream("far", format!("[fe80::77%late]:{PORT}"))
        .hold("60s");
    let daemon = Launch::new()?.start(&net.edge, &config)?;
    for _ in 0..2 {
        let (metric, failures) =
            ("snisplice_upstream_connect_failures_total", [("upstream", "far"), ("reason", "resolve")]);
        let before = daemon.metrics()?.sum(metric, &failures);
        let mut client = net.client.connect(edge(SHARED_PORT))?;
        // There is no such interface, as yet or any more.
        daemon.wait_for_metric(metric, &failures, before + 1.0)?;
        let peer = net.backend.name();
        net.edge.ip_batch(&format!(
            "link add late type veth peer name late netns {peer}\nlink set late up\n\
             address add fe80::78/64 dev late nodad\n"
        ))?;
        net.backend.ip_batch("link set late up\naddress add fe80::77/64 dev late nodad\n")?;
        let mut upstream = server.accept()?;
        transfer(&mut client, &mut upstream, 1, 100_000)?;
        transfer(&mut upstream, &mut client, 2, 100_000)?;
        let record = client.local_addr()?;
        drop((client, upstream));
        let access = daemon.wait_for_access(record)?;
        assert!(
            access.server.as_deref().is_some_and(|server| server.starts_with("[fe80::77%")),
            "{access:?}"
        );
        net.edge.ip_batch("link del late\n")?;
    }
    daemon.stop()
}
