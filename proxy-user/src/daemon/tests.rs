//! A daemon in this process, on loopback, whose configuration changes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Daemon;
use super::reload::ReloadError;
use crate::control::config::{self, Host};
use crate::hub::snapshot::Snapshot;
use crate::hub::{Phase, UpstreamRegistry};

const PATIENCE: Duration = Duration::from_secs(10);

/// An address that is free as long as the socket lives.
fn free_address() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Says its name to each client, and then what it hears.
fn server(name: &'static [u8; 1]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(name).unwrap();
            let mut reader = stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut reader, &mut stream));
        }
    });
    address
}

fn configuration(
    listeners: &[(&str, SocketAddr)],
    server: SocketAddr,
    registry: &UpstreamRegistry,
) -> Snapshot {
    let mut text = format!("[[upstream]]\nname = 'it'\nservers = '{server}'\ndatapath = 'copy'\n");
    for (name, address) in listeners {
        text += &format!("[[listen]]\nname = '{name}'\naddress = '{address}'\nto = 'it'\n");
    }
    text += "[admin]\nsocket = ''\nhttp = ''\n";
    match config::parse(&text, "test.toml", &Host::default(), registry) {
        Ok(loaded) => loaded.snapshot,
        Err(errors) => panic!("{errors}"),
    }
}

fn read(stream: &mut TcpStream) -> u8 {
    let mut byte = [0];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut byte).unwrap();
    byte[0]
}

fn end(daemon: Daemon) {
    daemon.hub.phases.advance(Phase::Stopped);
    for worker in daemon.workers {
        worker.join().unwrap();
    }
}

#[tokio::test]
async fn connections_keep_their_configuration_and_new_ones_get_the_next() {
    let ((_one, first), (_other, second)) = (free_address(), free_address());
    let (a, b) = (server(b"a"), server(b"b"));
    let registry = UpstreamRegistry::default();
    let mut daemon = Daemon::start(configuration(&[("one", first)], a, &registry)).await.unwrap();
    let mut old = TcpStream::connect(first).unwrap();
    assert_eq!(read(&mut old), b'a');

    assert_eq!(daemon.reload(configuration(&[("one", first)], a, &registry)).unwrap(), []);
    assert_eq!(daemon.hub.config.current().epoch, 1, "no change, no epoch");

    let changes = daemon.reload(configuration(&[("two", second)], b, &registry)).unwrap();
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["listener \"two\" added", "listener \"one\" removed", "upstream \"it\" changed"]);
    assert_eq!(daemon.hub.config.current().epoch, 2);
    assert_eq!(read(&mut TcpStream::connect(second).unwrap()), b'b');
    old.write_all(b"x").unwrap();
    assert_eq!(read(&mut old), b'x', "it goes on");
    let epochs: Vec<_> = daemon.hub.flows.list().iter().map(|flow| flow.config.epoch).collect();
    assert_eq!(epochs.first(), Some(&1));
    let is_refused = || TcpStream::connect(first).is_err();
    let begun = std::time::Instant::now();
    while !is_refused() {
        assert!(begun.elapsed() < PATIENCE, "the address is still open");
    }
    end(daemon);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_taken_changes_nothing() {
    let (_free, first) = free_address();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = server(b"a");
    let registry = UpstreamRegistry::default();
    let mut daemon = Daemon::start(configuration(&[("one", first)], server, &registry)).await.unwrap();
    let next = configuration(&[("two", taken.local_addr().unwrap())], server, &registry);
    assert!(matches!(daemon.reload(next), Err(ReloadError::Bind(_))));
    let mut next = configuration(&[("one", first)], server, &registry);
    next.admin.http_clients = true;
    assert!(matches!(daemon.reload(next), Err(ReloadError::NeedsRestart(changes)) if changes.len() == 1));
    assert_eq!(daemon.hub.config.current().epoch, 1);
    assert_eq!(read(&mut TcpStream::connect(first).unwrap()), b'a');
    end(daemon);
}
