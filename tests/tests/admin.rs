//! What the admin interface tells of a living daemon.

use anyhow::Result;
use harness::keyed;
use harness::site::{RawSite, config};

#[test]
fn the_admin_address_answers_like_the_socket() -> Result<()> {
    let site = RawSite::start(&config())?;
    for path in ["/livez", "/readyz", "/metrics", "/api/v1/status", "/api/v1/flows"] {
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
