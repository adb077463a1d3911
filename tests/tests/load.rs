//! Many connections: none may be lost.

use std::thread;

use anyhow::{Result, anyhow};
use harness::peers::agent::Work;
use harness::peers::web::{fetch_keyed, fetch_page};
use harness::site::{POLLING_NAME, SHARED_PORT, Site, WEB_NAME, config};

/// One short visit to each server in turn, known by its certificate.
fn visit(site: &Site, number: u32) -> Result<()> {
    if number.is_multiple_of(2) {
        site.agent(Some(POLLING_NAME), SHARED_PORT, "poll://many/").map(drop)
    } else {
        fetch_page(&mut site.browser()?, WEB_NAME)
    }
}

#[test]
fn a_thousand_connections_in_a_row_lose_none() -> Result<()> {
    const COUNT: u32 = 1000;
    let site = Site::start(&config())?;
    let lost: Vec<_> =
        (0..COUNT).filter_map(|number| visit(&site, number).err().map(|error| (number, error))).collect();
    assert!(lost.is_empty(), "{} of {COUNT} are lost, such as {:?}", lost.len(), lost.first());
    site.daemon.wait_for_idle()?;
    let metrics = site.daemon.metrics()?;
    assert_eq!(metrics.sum("snisplice_connections_accepted_total", &[]), f64::from(COUNT));
    assert_eq!(metrics.sum("snisplice_connections_closed_total", &[]), f64::from(COUNT));
    assert_eq!(metrics.sum("snisplice_connections_active", &[]), 0.0);
    for route in ["polling", "web"] {
        let closed = metrics.sum("snisplice_connections_closed_total", &[("route", route)]);
        assert_eq!(closed, f64::from(COUNT) / 2.0, "{route}");
    }
    site.stop()
}

#[test]
fn two_hundred_connections_at_once_lose_none() -> Result<()> {
    const COUNT: u32 = 200;
    const BYTES: u64 = 100_000;
    let site = Site::start(&config())?;
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let visit = |number: u32| -> Result<()> {
            if number.is_multiple_of(2) {
                let mut agent = site.agent(Some(POLLING_NAME), SHARED_PORT, &format!("poll://{number}/"))?;
                site.queues.queue_package(&format!("poll://{number}/"), BYTES);
                while agent.poll()? == Work::Null {}
                agent.leave().map(drop)
            } else {
                fetch_keyed(&mut site.browser()?, WEB_NAME, u64::from(number), BYTES)
            }
        };
        let visitors: Vec<_> = (0..COUNT).map(|number| scope.spawn(move || visit(number))).collect();
        visitors
            .into_iter()
            .map(|visitor| visitor.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
            .collect()
    });
    let lost: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{} of {COUNT} are lost, such as {:?}", lost.len(), lost.first());
    site.stop()
}
