//! Interfaces that stand on others: bridges, macvlan, VLANs, bonds, under both connections.

use anyhow::{Result, ensure};
use harness::MIB;
use harness::daemon::{Datapath, Launch};
use harness::netns::{Namespace, Topology, backend};
use harness::peers::raw::{Ending, RawListener, expect_ending, finish, transfer};
use harness::site::{POLLING_PORT, RawSite, WEB_PORT, config};

use crate::counted;

/// Moves `address` from an interface to a new one that `lines` put on it, called `s-` and its name.
fn stack(namespace: &Namespace, interface: &str, address: &str, lines: &str) -> Result<()> {
    let lines = lines.replace('$', interface);
    namespace.ip_batch(&format!(
        "{lines}address del {address} dev {interface}\n\
         link set s-{interface} up\naddress add {address} dev s-{interface}\n"
    ))
}

/// A flow by interfaces that are made on the edge's own and, where their peers need them too, on those at the ends.
fn carry(near: &str, far: &str) -> Result<()> {
    let net = Topology::create()?;
    let legs = [("client", &net.client, "10.1.0"), ("backend", &net.backend, "10.2.0")];
    for (interface, end, prefix) in legs {
        if let Err(error) = stack(&net.edge, interface, &format!("{prefix}.1/24"), near) {
            ensure!(format!("{error:#}").contains("Unknown device type"), "{error:#}");
            println!("SKIPPED: this kernel has no such interfaces: {}", near.lines().next().unwrap_or(""));
            return Ok(());
        }
        if !far.is_empty() {
            stack(end, "edge", &format!("{prefix}.2/24"), far)?;
            end.ip_batch(&format!("route add default via {prefix}.1\n"))?;
        }
    }
    let polling = RawListener::bind(&net.backend, backend(POLLING_PORT))?;
    let web = RawListener::bind(&net.backend, backend(WEB_PORT))?;
    let daemon = Launch::new()?.start(&net.edge, &config().datapath(Datapath::Packet))?;
    let site = RawSite { daemon, polling, web, net };
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    site.daemon.wait_for_packets(1)?;
    let before = counted(&site.daemon)?;
    transfer(&mut client, &mut server, 2, MIB)?;
    transfer(&mut server, &mut client, 3, MIB)?;
    let after = counted(&site.daemon)?;
    ensure!(after.forwarded_bytes - before.forwarded_bytes >= 2 * MIB, "{before:?} {after:?}");
    finish(&server)?;
    expect_ending(&mut client, Ending::Eof)?;
    finish(&client)?;
    expect_ending(&mut server, Ending::Eof)?;
    site.daemon.stop()
}

#[test]
fn flows_go_by_bridges() -> Result<()> {
    carry("link add s-$ type bridge\nlink set $ master s-$\n", "")
}

#[test]
fn flows_go_by_macvlan_interfaces() -> Result<()> {
    carry("link add link $ name s-$ type macvlan mode bridge\n", "")
}

#[test]
fn flows_go_by_vlan_interfaces() -> Result<()> {
    let vlan = "link add link $ name s-$ type vlan id 7\n";
    carry(vlan, vlan)
}

#[test]
fn flows_go_by_bonds() -> Result<()> {
    carry("link add s-$ type bond mode active-backup\nlink set $ down\nlink set $ master s-$\n", "")
}
