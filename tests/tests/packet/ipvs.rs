//! The kernel's load balancer (IPVS) on this host translates addresses behind the programs: connections that it has to do with keep their
//! sockets, others are offloaded as ever.

use std::net::SocketAddr;

use anyhow::Result;
use harness::command::run;
use harness::daemon::{Config, Datapath, Launch};
use harness::netns::{BACKEND_IPV4, EDGE_IPV4, Namespace, Topology};
use harness::peers::raw::{RawListener, transfer};

use crate::refusals::stays;

/// The address that it balances.
const VIRTUAL: &str = "10.9.9.9";

/// Has the edge send what is for a port of the virtual address to this server. False: this kernel has no such thing, which is said.
fn balance(edge: &Namespace, port: u16, server: SocketAddr) -> Result<bool> {
    let service = format!("{VIRTUAL}:{port}");
    let rules = format!("-A -t {service} -s rr\n-a -t {service} -r {server} -m\n");
    let done = run(edge.command("ipvsadm").arg("-R"), rules.as_bytes())?;
    if done.code == Some(0) {
        return Ok(true);
    }
    println!("SKIPPED: this kernel has no IPVS: {}", done.stderr.lines().next().unwrap_or(""));
    Ok(false)
}

fn ip(namespace: &Namespace, arguments: &str) -> Result<()> {
    run(namespace.command("ip").args(arguments.split(' ')), b"")?.success().map(drop)
}

/// The server's address is one that this host balances.
#[test]
fn a_connection_to_a_balanced_server_stays_and_others_leave() -> Result<()> {
    let net = Topology::create()?;
    let server = SocketAddr::new(BACKEND_IPV4, 9443);
    if !balance(&net.edge, 9443, server)? {
        return Ok(());
    }
    ip(&net.edge, &format!("route add {VIRTUAL} via {BACKEND_IPV4}"))?;
    let listener = RawListener::bind(&net.backend, server)?;
    let config = Config::new()
        .listen_to("one", "[::]:443", "one")
        .upstream("one", format!("{VIRTUAL}:9443"))
        .listen_to("plain", "[::]:444", "plain")
        .upstream("plain", server);
    let daemon = Launch::new()?.start(&net.edge, &config.datapath(Datapath::Packet))?;
    let balanced = (net.client.connect(SocketAddr::new(EDGE_IPV4, 443))?, listener.accept()?);
    stays(&daemon, balanced, "unseen")?;
    let (mut client, mut server) = (net.client.connect(SocketAddr::new(EDGE_IPV4, 444))?, listener.accept()?);
    transfer(&mut client, &mut server, 1, 1000)?;
    daemon.wait_for_packets(1)?;
    transfer(&mut server, &mut client, 2, 500_000)?;
    drop((client, server));
    daemon.stop()
}

/// Clients come to an address that this host balances, with the daemon as its server.
#[test]
fn a_connection_of_a_client_of_a_balanced_address_stays() -> Result<()> {
    let net = Topology::create()?;
    if !balance(&net.edge, 443, SocketAddr::new(EDGE_IPV4, 443))? {
        return Ok(());
    }
    ip(&net.edge, &format!("address add {VIRTUAL}/32 dev client"))?;
    ip(&net.client, &format!("route add {VIRTUAL} via {EDGE_IPV4}"))?;
    let server = SocketAddr::new(BACKEND_IPV4, 9443);
    let listener = RawListener::bind(&net.backend, server)?;
    let config = Config::new().listen_to("one", &format!("{EDGE_IPV4}:443"), "one").upstream("one", server);
    let daemon = Launch::new()?.start(&net.edge, &config.datapath(Datapath::Packet))?;
    let balanced = (net.client.connect(format!("{VIRTUAL}:443").parse()?)?, listener.accept()?);
    stays(&daemon, balanced, "unseen")?;
    daemon.stop()
}
