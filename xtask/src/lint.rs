//! `lint`: formatting, clippy, the project rules, licences and advisories.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::console::{Step, Tone, paint};
use crate::process::{keep_log, observe, tail};
use crate::workspace::{cargo, locked, root};
use crate::{build, rules, setup};

/// How one check ended.
pub(crate) enum Verdict {
    Passed,
    /// What was found.
    Failed(String),
    /// Why it could not be done.
    Skipped(String),
}

/// One check and how it ended.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
}

/// `lint`: all checks. One that fails does not keep the others from being made. True when none failed.
pub(crate) fn run() -> bool {
    let checks = checks();
    let mut good = true;
    for check in &checks {
        match &check.verdict {
            Verdict::Passed => {}
            Verdict::Failed(what) => {
                good = false;
                println!("{} {}\n{what}", paint(Tone::Bad, "FAILED"), check.name);
            }
            Verdict::Skipped(why) => {
                println!("{}", paint(Tone::Loud, &format!("SKIPPED {}: {why}", check.name)));
            }
        }
    }
    let count = |wanted: fn(&Verdict) -> bool| checks.iter().filter(|check| wanted(&check.verdict)).count();
    println!(
        "lint: {} passed, {} failed, {} skipped",
        count(|v| matches!(v, Verdict::Passed)),
        count(|v| matches!(v, Verdict::Failed(_))),
        count(|v| matches!(v, Verdict::Skipped(_)))
    );
    good
}

/// `lint --tree DIR`: the project rules alone, for another checkout, with a count for each rule. True when all hold.
pub(crate) fn other_tree(tree: &Path) -> Result<bool> {
    let findings = rules::findings(tree)?;
    for finding in &findings {
        println!("{finding}");
    }
    for (rule, count) in rules::by_rule(&findings) {
        println!("{rule}: {count}");
    }
    println!("lint of {}: {} findings", tree.display(), findings.len());
    Ok(findings.is_empty())
}

/// Makes all checks.
pub(crate) fn checks() -> Vec<Check> {
    let mut checks = vec![project_rules()];
    let deny = match setup::for_lint() {
        Ok(deny) => deny,
        Err(error) => {
            checks.push(Check { name: "lint tools", verdict: Verdict::Failed(format!("    {error:#}")) });
            return checks;
        }
    };
    checks.push(check(
        "rustfmt (remedy: cargo fmt --all)",
        cargo().args(["fmt", "--all", "--check", "--", "--color", "never"]),
    ));
    checks.extend(clippy());
    let licences = ["check", "bans", "licenses", "sources"];
    checks.push(check("cargo-deny: bans, licences, sources", cargo_deny(&deny).args(licences)));
    checks.push(advisories(&deny));
    checks
}

fn project_rules() -> Check {
    let step = Step::begin("project rules");
    let verdict = match rules::findings(&root()) {
        Ok(findings) if findings.is_empty() => Verdict::Passed,
        Ok(findings) => Verdict::Failed(findings.iter().map(|finding| format!("    {finding}\n")).collect()),
        Err(error) => Verdict::Failed(format!("    {error:#}\n")),
    };
    step.end(if matches!(verdict, Verdict::Passed) { Tone::Good } else { Tone::Bad }, "");
    Check { name: "project rules", verdict }
}

/// Clippy on all crates. The daemon embeds the BPF objects, so these are built first.
fn clippy() -> Vec<Check> {
    if let Err(error) = build::objects() {
        return vec![Check { name: "BPF objects", verdict: Verdict::Failed(format!("    {error:#}")) }];
    }
    let warnings = ["--", "-D", "warnings"];
    let mut host = cargo();
    host.args(["clippy", "--workspace", "--exclude", "proxy-ebpf", "--all-targets"])
        .args(locked())
        .args(warnings);
    let mut bpf = cargo();
    bpf.args(["clippy", "--package", "proxy-ebpf"]).args(locked()).args(warnings);
    vec![check("clippy", &mut host), check("clippy (BPF programs)", &mut bpf)]
}

/// Known vulnerabilities. Their database comes over the network: without it nothing is known, and that is said.
fn advisories(deny: &Path) -> Check {
    let name = "cargo-deny: advisories";
    let mut step = Step::begin("fetch the advisory database");
    match observe(cargo_deny(deny).args(["fetch", "db"]), &mut step, |_, _| String::new()) {
        Ok(fetched) if fetched.status.success() => {
            step.end(Tone::Good, "");
            check(name, cargo_deny(deny).args(["check", "advisories"]))
        }
        Ok(fetched) => {
            step.end(Tone::Loud, "");
            let why = fetched.output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word why");
            Check { name, verdict: Verdict::Skipped(format!("the database cannot be fetched: {why}")) }
        }
        Err(error) => {
            step.end(Tone::Bad, "");
            Check { name, verdict: Verdict::Failed(format!("    {error:#}")) }
        }
    }
}

fn cargo_deny(deny: &Path) -> Command {
    let mut command = Command::new(deny);
    command.current_dir(root()).args(["--color", "never"]).args(locked());
    command
}

fn check(name: &'static str, command: &mut Command) -> Check {
    let mut step = Step::begin(name);
    let verdict = match observe(command, &mut step, |_, _| String::new()) {
        Ok(outcome) if outcome.status.success() => Verdict::Passed,
        Ok(outcome) => {
            // The log is for later: what it says is shown now in any case.
            let _ = keep_log(name, &outcome.output);
            Verdict::Failed(tail(&outcome.output))
        }
        Err(error) => Verdict::Failed(format!("    {error:#}")),
    };
    step.end(if matches!(verdict, Verdict::Passed) { Tone::Good } else { Tone::Bad }, "");
    Check { name, verdict }
}
