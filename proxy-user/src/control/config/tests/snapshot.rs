//! Good files and what they become.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy_common::hello::{HostName, MaxHello};
use proxy_common::plan::{Choice, Datapath};

use super::super::DEFAULT;
use super::parse;
use crate::hub::Server;
use crate::hub::snapshot::Snapshot;

/// The example of the design.
const DESIGN: &str = r#"
[[listen]]
name = "tls"
address = ["[::]:443"]            # dual stack

[[listen]]                        # Tentacles that still use 10943
name = "legacy"
address = ["[::]:10943"]
to = "octopus-polling"            # no SNI needed

[[route]]
name = "polling"
sni = ["polling.example.com", "polling.**"]
to = "octopus-polling"

[[route]]
name = "web"
default = true                    # other names, no name, not TLS
to = "octopus-web"

[[upstream]]
name = "octopus-polling"
servers = ["10.0.0.5:10943"]      # IP:port or host:port
datapath = "auto"

[[upstream]]
name = "octopus-web"
servers = ["10.0.0.5:8443"]

[admin]
socket = "/run/snisplice/admin.sock"
http = "127.0.0.1:10944"
"#;

fn good(text: &str) -> Snapshot {
    match parse(text, "test.toml") {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, []);
            loaded.snapshot
        }
        Err(errors) => panic!("{errors}"),
    }
}

/// Name of the upstream that a client in 192.0.2.0/24 gets.
fn way(snapshot: &Snapshot, sni: Option<&str>) -> String {
    let name = sni.map(|sni| HostName::parse(sni).unwrap());
    let found = snapshot.routes.find(name.as_ref(), [192, 0, 2, 1].into()).unwrap();
    found.route.to.name.to_string()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_default_is_what_the_reference_says() {
    let snapshot = good(DEFAULT);
    assert_eq!(snapshot.listeners.len(), 1);
    assert_eq!(&*snapshot.listeners[0].name, "tls");
    assert_eq!(snapshot.listeners[0].addresses, [address("[::]:443")]);
    assert!(snapshot.listeners[0].to.is_none());
    assert_eq!(way(&snapshot, Some("polling.example.com")), "octopus-polling");
    assert_eq!(way(&snapshot, Some("example.com")), "octopus-web");
    assert_eq!(way(&snapshot, None), "octopus-web");
    let servers: Vec<_> =
        snapshot.upstreams.iter().map(|upstream| upstream.servers().cloned().collect::<Vec<_>>()).collect();
    let expected = ["127.0.0.1:10943", "127.0.0.1:8443"].map(|server| vec![Server::Address(address(server))]);
    assert_eq!(servers, expected);
    assert!(snapshot.upstreams.iter().all(|upstream| upstream.datapath == Choice::Auto));
    assert!(snapshot.upstreams.iter().all(|upstream| upstream.hold == Duration::from_secs(15)));
    assert_eq!(snapshot.admin.socket.as_deref(), Some(Path::new("/run/snisplice/admin.sock")));
    assert_eq!(snapshot.admin.http, Some(address("127.0.0.1:10944")));
    let timeouts = snapshot.timeouts;
    let seconds = [timeouts.hello, timeouts.connect, timeouts.half_close, timeouts.drain, timeouts.keepalive];
    assert_eq!(seconds.map(|timeout| timeout.as_secs()), [10, 5, 60, 30, 65]);
    assert_eq!((timeouts.idle, snapshot.limits.tcp_memory), (Duration::ZERO, None));
    assert_eq!((snapshot.limits.source_connections, snapshot.limits.hello_size), (0, MaxHello::DEFAULT));
}

/// Every key that is commented out in the default shows its default value, and is valid when taken in.
#[test]
fn the_default_with_its_commented_keys_is_valid() {
    let keys = [
        "http_clients =",
        "hosts =",
        "[timeouts]",
        "hello =",
        "connect =",
        "half_close =",
        "idle =",
        "drain =",
        "keepalive =",
        "datapath =",
        "hold =",
        "source =",
    ];
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if keys.iter().any(|key| rest.starts_with(key)) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = DEFAULT.lines().map(uncomment).collect();
    assert_eq!(text.matches("\n# ").count() + keys.len(), DEFAULT.matches("\n# ").count());
    let (plain, full) = (good(DEFAULT), good(&text));
    assert_eq!(format!("{:?}", plain.timeouts), format!("{:?}", full.timeouts));
    assert_eq!(format!("{:?}", plain.upstreams), format!("{:?}", full.upstreams));
    assert_eq!(full.routes.routes()[0].source.len(), 1);
    assert_eq!((plain.admin.http_clients, full.admin.http_clients), (false, false));
    assert_eq!((plain.admin.hosts, full.admin.hosts), (vec![], vec!["metrics.example.com".to_owned()]));
}

/// The legacy listener of the default is for an Octopus on another host.
#[test]
fn the_default_with_its_legacy_listener_fits_a_remote_octopus() {
    let mut text = DEFAULT.replace("127.0.0.1:10943", "10.0.0.5:10943");
    for key in ["[[listen]]", "name = \"legacy\"", "address = [\"[::]:10943\"]", "to = \"octopus-polling\""] {
        text = text.replace(&format!("# {key}\n"), &format!("{key}\n"));
    }
    let snapshot = good(&text);
    assert_eq!(snapshot.listeners.len(), 2);
    assert_eq!(
        snapshot.listeners[1].to.as_ref().unwrap().name.to_string(),
        snapshot.upstreams[0].name.to_string()
    );
}

#[test]
fn the_example_of_the_design_is_valid() {
    let snapshot = good(DESIGN);
    assert_eq!(snapshot.listeners.len(), 2);
    assert_eq!(
        snapshot.listeners[1].to.as_ref().unwrap().name.to_string(),
        snapshot.upstreams[0].name.to_string()
    );
    assert_eq!(snapshot.listeners[1].addresses, [address("[::]:10943")]);
    assert_eq!(way(&snapshot, Some("polling.example.com")), "octopus-polling");
    assert_eq!(way(&snapshot, Some("www.example.com")), "octopus-web");
}

#[test]
fn a_server_by_ipv4_is_one_however_it_is_written() {
    let text = DEFAULT.replace("127.0.0.1:8443", "[::ffff:10.0.0.2]:8443");
    assert_eq!(good(&text).upstreams[1].servers().next(), Some(&Server::Address(address("10.0.0.2:8443"))));
}

#[test]
fn an_address_of_ipv4_is_listened_on_as_one() {
    let text = DEFAULT.replace("[::]:443", "[::ffff:127.0.0.1]:443");
    assert_eq!(good(&text).listeners[0].addresses, [address("127.0.0.1:443")]);
    let text = DEFAULT.replace("\"127.0.0.1:10944\"", "\"[::ffff:127.0.0.1]:10944\"");
    assert_eq!(good(&text).admin.http, Some(address("127.0.0.1:10944")));
}

#[test]
fn a_link_local_server_keeps_its_interface() {
    let text = DEFAULT.replace("127.0.0.1:8443", "[fe80::0:1%eth0.7]:8443");
    let snapshot = good(&text);
    let server = snapshot.upstreams[1].servers().next().unwrap();
    assert_eq!(server.to_string(), "[fe80::1%eth0.7]:8443");
    assert!(matches!(server, Server::LinkLocal { port: 8443, .. }));
}

#[test]
fn every_key_arrives() {
    let snapshot = good(
        "[[listen]]\nname = 'a'\naddress = ['192.0.2.1:443', '[2001:db8::1]:443']\nto = 'u'\n\
         [[listen]]\nname = '0_-'\naddress = '127.0.0.1:444'\n\
         [[route]]\nname = 'r'\nsni = 'WWW.example.com.'\nsource = ['10.0.0.0/8', '::1', '::ffff:10.0.0.0/104']\n\
         to = 'u'\n\
         [[upstream]]\nname = 'u'\nservers = ['[::1]:1', 'Backend_1.example.:65535', 'localhost:443']\n\
         datapath = 'copy'\nhold = '0s'\n\
         [admin]\nsocket = ''\nhttp = ''\n\
         [timeouts]\nhello = '1ms'\nconnect = '2s'\nhalf_close = '3m'\ndrain = '24h'\nkeepalive = '30s'\nidle = '1s'\n\
         [limits]\ntcp_memory = '3MiB'\nsource_connections = 7\nhello_size = '64KiB'\n\
         [packet]\nafter = '0s'\nports = '2000-2001'\npins = '/p'\njournal = '/j'\n\
         sources = ['192.0.2.1', '2001:db8::1']\nattach = 'clsact'\n",
    );
    assert_eq!(snapshot.listeners[0].addresses, [address("192.0.2.1:443"), address("[2001:db8::1]:443")]);
    assert_eq!(
        snapshot.listeners[0].to.as_ref().unwrap().name.to_string(),
        snapshot.upstreams[0].name.to_string()
    );
    let route = &snapshot.routes.routes()[0];
    assert_eq!(route.sni[0].to_string(), "www.example.com");
    let sources: Vec<_> = route.source.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["10.0.0.0/8", "::1/128", "10.0.0.0/8"]);
    let upstream = &snapshot.upstreams[0];
    let servers: Vec<_> = upstream.servers().map(ToString::to_string).collect();
    assert_eq!(servers, ["[::1]:1", "Backend_1.example.:65535", "localhost:443"]);
    assert_eq!((upstream.datapath, upstream.hold), (Choice::Only(Datapath::Copy), Duration::ZERO));
    assert_eq!((snapshot.admin.socket, snapshot.admin.http), (None, None));
    let timeouts = snapshot.timeouts;
    let all = [timeouts.hello, timeouts.connect, timeouts.half_close, timeouts.drain, timeouts.keepalive];
    assert_eq!(all.map(|timeout| timeout.as_millis()), [1, 2_000, 180_000, 86_400_000, 30_000]);
    assert_eq!((timeouts.idle, snapshot.limits.tcp_memory), (Duration::from_secs(1), Some(3 << 20)));
    assert_eq!((snapshot.limits.source_connections, snapshot.limits.hello_size), (7, MaxHello::MAX));
    let packet = snapshot.packet;
    assert_eq!((packet.after, packet.ports), (Duration::ZERO, 2000..=2001));
    let sources: Vec<_> = packet.sources.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(packet.attach.name(), "clsact");
    assert_eq!([packet.pins, packet.journal].map(|path| path.display().to_string()), ["/p", "/j"]);
}

#[test]
fn what_looks_like_a_conflict_and_is_none_is_allowed() {
    // A server on a port that is listened on, on another address; one name in two sections; one pattern for
    // two networks; a listener on one address beside one on all.
    good(
        "[[listen]]\nname = 'x'\naddress = ['0.0.0.0:443', '127.0.0.1:443', '[::1]:443']\n\
         [[route]]\nname = 'x'\nsni = 'a.b'\nsource = '10.0.0.0/8'\nto = 'x'\n\
         [[route]]\nname = 'y'\nsni = 'a.b'\nsource = '10.0.0.0/9'\nto = 'x'\n\
         [[route]]\nname = 'z'\nsni = ['a.b', 'A.B.']\nto = 'x'\n\
         [[upstream]]\nname = 'x'\nservers = ['10.0.0.1:443', '[::]:444', 'x.localhost:443']\n",
    );
}
