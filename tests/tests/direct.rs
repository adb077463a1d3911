//! The harness itself: namespaces, peers and programs on the path without the daemon.
//!
//! What these tests see is what the tests of the daemon have to see: a path with the daemon is no other than this.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::MIB;
use harness::keyed;
use harness::netns::{BACKEND_IPV6, BpfKind, Topology, backend, bpf_ids};
use harness::peers::agent::{Agent, Work};
use harness::peers::backend::{Backend, Bulk, Echo, download, upload};
use harness::peers::polling::Polling;
use harness::peers::programs::{OpensslServer, curl, openssl_certificate};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, is_reset, reset};
use harness::peers::tls::{self, Identity};
use harness::peers::web::{PAGE, Web, fetch_keyed, fetch_page};
use harness::workdir::WorkDir;

fn namespaces() -> Result<Vec<String>> {
    let list = fs::read_dir("/run/netns")?;
    Ok(list.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[test]
fn a_topology_is_removed_also_by_a_panic() -> Result<()> {
    let names = thread::spawn(|| {
        let net = Topology::create().unwrap();
        let names = [&net.client, &net.edge, &net.backend].map(|namespace| namespace.name().to_owned());
        assert!(namespaces().unwrap().contains(&names[0]), "the namespace is not there");
        std::panic::panic_any(names);
    })
    .join()
    .unwrap_err()
    .downcast::<[String; 3]>()
    .expect("another panic than the test's own");
    let left = namespaces()?;
    ensure!(names.iter().all(|name| !left.contains(name)), "{names:?} are left in {left:?}");
    Ok(())
}

#[test]
fn tls_carries_keyed_data_both_ways_over_ipv4_and_ipv6() -> Result<()> {
    let net = Topology::create()?;
    let identity = Identity::for_name("bulk.test")?;
    for address in [backend(8443), SocketAddr::new(BACKEND_IPV6, 8444)] {
        let server = Backend::tls(&net.backend, address, &identity, Bulk)?;
        let mut client = tls::connect(net.client.connect(address)?, Some("bulk.test"), server.fingerprint())?;
        download(&mut client, 1, 8 * MIB)?;
        upload(&mut client, 2, 8 * MIB)?;
        assert_eq!(tls::certificate_of(&client)?, identity.fingerprint());
        assert!(client.sock.received > 8 * MIB && client.sock.sent > 8 * MIB, "{:?}", client.sock);
        assert_eq!(server.failures(), [""; 0]);
    }
    Ok(())
}

#[test]
fn a_client_refuses_another_certificate_than_the_pinned_one() -> Result<()> {
    let net = Topology::create()?;
    let identity = Identity::for_name("echo.test")?;
    let server = Backend::tls(&net.backend, backend(8443), &identity, Echo)?;
    let other = Identity::for_name("echo.test")?.fingerprint();
    let refused = tls::connect(net.client.connect(server.address())?, Some("echo.test"), Some(other));
    let error = format!("{:#}", refused.expect_err("the wrong certificate was accepted"));
    assert!(error.contains(&other.to_string()), "{error}");
    Ok(())
}

#[test]
fn agents_get_null_messages_and_packages() -> Result<()> {
    let net = Topology::create()?;
    let identity = Identity::for_name("polling.test")?;
    let queues = Polling::new(Duration::from_millis(20));
    let server = Backend::tls(&net.backend, backend(10943), &identity, queues.clone())?;
    let stream = net.client.connect(server.address())?;
    let mut agent = Agent::introduce(stream, Some("polling.test"), server.fingerprint(), "poll://one/")?;
    assert_eq!(agent.poll()?, Work::Null);
    queues.queue_package("poll://two/", MIB);
    queues.queue_package("poll://one/", 4 * MIB);
    // The null message of the poll before may still be under way.
    let mut work = agent.poll()?;
    if work == Work::Null {
        work = agent.poll()?;
    }
    assert_eq!(work, Work::Package(4 * MIB));
    assert_eq!(agent.poll()?, Work::Null);
    agent.leave()?;
    assert_eq!(server.failures(), [""; 0]);
    Ok(())
}

#[test]
fn the_web_application_serves_rustls_and_curl() -> Result<()> {
    let net = Topology::create()?;
    let server = Backend::tls(&net.backend, backend(8443), &Identity::for_name("web.test")?, Web)?;
    let mut client =
        tls::connect(net.client.connect(server.address())?, Some("web.test"), server.fingerprint())?;
    fetch_page(&mut client, "web.test")?;
    fetch_keyed(&mut client, "web.test", 5, 2 * MIB)?;
    assert_eq!(curl(&net.client, server.address(), "web.test", "/", None)?, PAGE);
    let files = WorkDir::create()?;
    let mut data = Vec::new();
    keyed::send(&mut data, 9, 3 * MIB)?;
    let file = files.write("upload", &data)?;
    let answer = curl(&net.client, server.address(), "web.test", "/upload/9", Some(&file))?;
    assert_eq!(answer, "received 3145728 bytes\n");
    assert!(curl(&net.client, server.address(), "web.test", "/upload/8", Some(&file)).is_err());
    assert_eq!(server.failures().len(), 1, "{:?}", server.failures());
    Ok(())
}

#[test]
fn openssl_is_a_client_and_a_server() -> Result<()> {
    let net = Topology::create()?;
    let identity = Identity::for_name("echo.test")?;
    let server = Backend::tls(&net.backend, backend(8443), &identity, Echo)?;
    let seen = openssl_certificate(&net.client, server.address(), &["-servername", "echo.test"])?;
    assert_eq!(seen, identity.fingerprint());
    let _openssl = OpensslServer::start(&net.backend, backend(8444), &identity)?;
    let mut client = tls::connect(net.client.connect(backend(8444))?, None, Some(identity.fingerprint()))?;
    client.write_all(b"hello\n")?;
    let mut answer = [0; 6];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"olleh\n");
    Ok(())
}

#[test]
fn raw_peers_tell_the_endings_apart() -> Result<()> {
    let net = Topology::create()?;
    let listener = RawListener::bind(&net.backend, backend(7000))?;
    assert!(listener.is_untouched());

    let mut client = net.client.connect(backend(7000))?;
    let mut server = listener.accept()?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    let sender = thread::spawn(move || keyed::send(&mut server, 4, MIB));
    keyed::receive(&mut client, 4, MIB)?;
    expect_ending(&mut client, Ending::Eof)?;
    sender.join().expect("the sender panicked")?;

    let client = net.client.connect(backend(7000))?;
    let mut server = listener.accept()?;
    reset(client)?;
    expect_ending(&mut server, Ending::Reset)?;
    let error = server.write_all(b"x").expect_err("a write after a reset");
    assert!(is_reset(&error), "{error}");
    Ok(())
}

#[test]
fn bpf_objects_can_be_listed() -> Result<()> {
    // There may be none, but the kernel has to answer.
    for kind in [BpfKind::Program, BpfKind::Map] {
        let ids = bpf_ids(kind)?;
        assert!(ids.is_sorted(), "{kind:?}: {ids:?}");
    }
    Ok(())
}
