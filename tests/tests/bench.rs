//! The benchmark itself: a short run measures what it says it measures.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use harness::command::snisplice;
use harness::deadline::{PATIENCE, wait_for};
use harness::netns::send_signal;
use harness::workdir::WorkDir;
use serde_json::Value;

const ROUNDS: u64 = 2;
const SCENARIOS: [&str; 4] = ["bulk-up-1", "ping-1", "connects", "loopback-down"];
const SYSTEMS: [&str; 2] = ["direct", "snisplice-copy"];

fn bench() -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snisplice-bench"));
    command.arg("--snisplice").arg(snisplice()?).args(["--seconds", "0.05"]);
    Ok(command)
}

fn measured<'a>(results: &'a Value, scenario: &str, system: &str, round: u64) -> Option<&'a Value> {
    let samples = results["samples"].as_array()?;
    let found = samples.iter().filter(|sample| {
        sample["scenario"] == scenario && sample["system"] == system && sample["round"] == round
    });
    let [sample] = found.collect::<Vec<_>>()[..] else { return None };
    sample["outcome"].get("measured")
}

/// The run itself checks that the bytes that were sent have arrived; a run that does not end well has not.
#[test]
fn a_short_run_measures_every_system_in_every_round() -> Result<()> {
    let work = WorkDir::create()?;
    let file = work.file("results.json");
    let output = bench()?
        .args([
            "--rounds",
            &ROUNDS.to_string(),
            "--only",
            &SCENARIOS.join(","),
            "--system",
            &SYSTEMS.join(","),
        ])
        .arg("--json")
        .arg(&file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );

    let results: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    assert_eq!(results["facts"]["congestion control"], "cubic");
    for scenario in SCENARIOS {
        for system in SYSTEMS {
            for round in 1..=ROUNDS {
                let values = measured(&results, scenario, system, round)
                    .with_context(|| format!("{scenario} of {system} in round {round}: {results:#}"))?;
                let figure =
                    ["rate", "round-trips", "connects"].iter().find_map(|name| values[name].as_f64());
                assert!(figure.is_some_and(|figure| figure > 0.0), "{scenario} of {system}: {values}");
                // By the daemon's own count it carried everything, and the kernel nothing of it.
                let share = values.get("kernel-share").and_then(Value::as_f64);
                assert_eq!(share, (system == "snisplice-copy").then_some(0.0), "{scenario} of {system}");
            }
        }
    }
    let again = bench()?.arg("--from").arg(&file).output()?;
    let table = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(table.contains("Upload, 1 connection") && table.contains("0 measurements failed"), "{table}");
    Ok(())
}

#[test]
fn a_system_that_cannot_run_is_said_to_be_missing() -> Result<()> {
    let output =
        bench()?.args(["--rounds", "1", "--only", "bulk-up-1", "--system", "direct,sniproxy"]).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    // Where it happens to be installed it is measured.
    if Path::new("/usr/sbin/sniproxy").is_file() {
        assert!(table.contains("0 systems not measured"), "{table}");
    } else {
        assert!(table.contains("NOT MEASURED sniproxy: sniproxy is not installed"), "{table}");
        assert!(table.contains("1 systems not measured"), "{table}");
    }
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() -> Result<()> {
    let mut child = bench()?
        .args(["--rounds", "100", "--only", "bulk-up-1", "--system", "snisplice-copy"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let own = format!("snis-{}-", child.id());
    let namespaces = || {
        let output = Command::new("ip").args(["netns", "list"]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).matches(&own).count())
    };
    wait_for("the namespaces", PATIENCE, || (namespaces()? == 3).then_some(()))?;
    send_signal(child.id(), libc::SIGINT)?;
    let ended = wait_for("the end", PATIENCE, || child.try_wait().transpose())??;
    assert_eq!(ended.code(), Some(130));
    wait_for("the namespaces to go", PATIENCE, || (namespaces()? == 0).then_some(()))?;
    let left: Vec<_> = std::fs::read_dir(std::env::temp_dir())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
