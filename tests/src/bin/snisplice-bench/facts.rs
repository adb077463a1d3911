//! The machine and the settings that the figures depend on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use harness::command;

use crate::network::{CONGESTION, Network};
use crate::plan::Plan;

/// Names and values, for people.
pub(crate) fn gather(network: &Network, plan: &Plan) -> Result<BTreeMap<String, String>> {
    let read = |file: &str| fs::read_to_string(file).with_context(|| format!("reading {file}"));
    let date = command::run(Command::new("date").args(["-u", "+%Y-%m-%d"]), &[])?.success()?;
    let cpus = read("/proc/cpuinfo")?;
    let memory = read("/proc/meminfo")?;
    let kilobytes: f64 = after(&memory, "MemTotal", ":").trim_end_matches(" kB").parse().unwrap_or_default();
    let buffers = |kind: &str| network.edge().enter(|| read(&format!("/proc/sys/net/ipv4/tcp_{kind}")));
    let rounds = format!("{}, {} s for each figure", plan.rounds, plan.window.as_secs_f64());
    let facts = [
        ("date", date),
        ("kernel", read("/proc/sys/kernel/osrelease")?),
        ("processor", after(&cpus, "model name", ":")),
        ("processors", thread::available_parallelism()?.to_string()),
        ("memory", format!("{:.0} GiB", kilobytes / 1024.0 / 1024.0)),
        ("congestion control", CONGESTION.to_owned()),
        ("tcp_rmem", buffers("rmem")?),
        ("tcp_wmem", buffers("wmem")?),
        ("rounds", rounds),
    ];
    let tidy = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), tidy(value))).collect())
}

/// What follows `name` and `separator` on its line.
fn after(text: &str, name: &str, separator: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(separator));
    lines.map(|value| value.trim().to_owned()).next().unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "vendor_id\t: X\nmodel name\t: Some CPU\nmodel name\t: Other\nMemTotal:  2048 kB\n";
        assert_eq!(after(text, "model name", ":"), "Some CPU");
        assert_eq!(after(text, "MemTotal", ":"), "2048 kB");
        assert_eq!(after(text, "flags", ":"), "unknown");
    }
}
