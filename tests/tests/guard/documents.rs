//! What docs/guard.md says, against the daemon.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use harness::site::{RawSite, config};
use harness::wire::Guard;

fn page() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guard.md");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The rows of tables, as the words in backticks of their cells.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines().filter(|line| line.starts_with('|')).map(|line| {
        line.split('|')
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(|cell| cell.trim_matches('`'))
            .collect()
    })
}

#[test]
fn every_metric_and_reason_is_documented_and_every_documented_one_exists() -> Result<()> {
    let page = page()?;
    let site = RawSite::start(&config().guard("client", ""))?;
    let text = site.daemon.get("/metrics")?.body;
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| name.starts_with("snisplice_guard_"))
        .collect();
    let documented: BTreeSet<&str> = rows(&page)
        .filter_map(|row| row.first().copied())
        .filter(|name| name.starts_with("snisplice_guard_"))
        .collect();
    assert!(exported.len() > 5, "{exported:?}");
    assert_eq!(documented, exported);
    let counted: BTreeSet<(String, String)> = Guard::of(&site.daemon)?
        .packets
        .into_iter()
        .filter(|packets| packets.verdict != "dry_run")
        .map(|packets| (packets.verdict, packets.reason))
        .collect();
    let reasons: BTreeSet<(String, String)> = rows(&page)
        .filter(|row| row.first().is_some_and(|verdict| ["pass", "drop"].contains(verdict)))
        .filter_map(|row| Some((row.first()?.to_string(), row.get(1)?.to_string())))
        .collect();
    assert_eq!(reasons, counted);
    site.daemon.stop()
}
