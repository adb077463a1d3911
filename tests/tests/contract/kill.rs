//! Law 7, for one flow: an operator ends it at any stage, and no other.

use std::io::Write as _;

use anyhow::{Result, ensure};
use harness::MIB;
use harness::carrier::Carrier;
use harness::peers::raw::{Ending, expect_ending, fill, read_to_ending, transfer};
use harness::site::polling_hello;

use crate::site;

#[test]
fn law_7_a_flow_is_killed_and_no_other() -> Result<()> {
    let (carrier, site) = (Carrier::of_environment()?, site()?);
    let (mut other, mut other_server) = site.flow()?;
    let before = carrier.account(&site.daemon)?;
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 2 * MIB)?;
    transfer(&mut server, &mut client, 2, 2 * MIB)?;
    let address = client.local_addr()?;
    site.daemon.wait_for_flow("the flow to be handed over", |flow| {
        flow.client == address.to_string() && flow.datapath.as_deref() == Some(carrier.name)
    })?;
    let text = site.daemon.order("kill", &[site.daemon.id_of(address)?])?;
    ensure!(text.starts_with("killed "), "{text}");
    expect_ending(&mut client, Ending::Reset)?;
    expect_ending(&mut server, Ending::Reset)?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.side.as_deref()), ("killed", None), "{access:?}");
    assert_eq!(access.bytes_in, 2 * MIB + polling_hello().len() as u64, "{access:?}");
    assert_eq!(access.bytes_out, 2 * MIB, "{access:?}");
    if !carrier.begins_as_copy() || carrier.name == "packet" {
        carrier.prove_share(&site.daemon, &before, &[access], u64::MAX - 1)?;
    }
    let killed = site.daemon.metrics()?.sum("snisplice_connections_closed_total", &[("reason", "killed")]);
    ensure!(killed > 0.0, "the metrics know of none");
    transfer(&mut other, &mut other_server, 3, 10_000)?;
    drop((other, other_server));
    site.daemon.wait_for_idle()?;
    site.daemon.stop()
}

#[test]
fn law_7_a_flow_whose_bytes_wait_is_killed() -> Result<()> {
    let (carrier, site) = (Carrier::of_environment()?, site()?);
    let (mut client, mut server) = site.flow()?;
    transfer(&mut client, &mut server, 1, 1000)?;
    carrier.wait_until_carried(&site.daemon)?;
    fill(&mut client, 64 * MIB)?;
    let address = client.local_addr()?;
    site.daemon.order("kill", &[site.daemon.id_of(address)?])?;
    ensure!(read_to_ending(&mut server)?.1 == Ending::Reset, "the server sees no reset");
    ensure!(read_to_ending(&mut client)?.1 == Ending::Reset, "the client sees no reset");
    assert_eq!(site.daemon.wait_for_access(address)?.reason, "killed");
    site.daemon.stop()
}

#[test]
fn law_7_a_connection_that_has_not_said_where_it_goes_is_killed() -> Result<()> {
    let site = site()?;
    let mut client = site.connect()?;
    client.write_all(&[0x16])?;
    let address = client.local_addr()?;
    site.daemon.wait_for_flow("the connection", |flow| flow.client == address.to_string())?;
    site.daemon.order("kill", &[site.daemon.id_of(address)?])?;
    expect_ending(&mut client, Ending::Reset)?;
    let access = site.daemon.wait_for_access(address)?;
    assert_eq!((access.reason.as_str(), access.datapath), ("killed", None));
    site.daemon.stop()
}
