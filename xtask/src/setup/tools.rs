//! Commands that the tests, the demo and lint call.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::apt;
use crate::process::{self, answer};
use crate::workspace::{cargo, cargo_home, which};

/// Commands of the tests and the demo, each with Debian's package for it.
const COMMANDS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("setpriv", "util-linux"),
    ("dnsmasq", "dnsmasq-base"),
    ("ipvsadm", "ipvsadm"),
];

/// The cargo-deny to install where there is none.
const CARGO_DENY: &str = "^0.20";

/// Installs those commands of the tests and the demo that are missing.
pub(crate) fn ensure() -> Result<()> {
    let packages: Vec<String> = missing().iter().map(|(_, package)| (*package).to_owned()).collect();
    if !packages.is_empty() && apt::exists() {
        apt::install(&packages)?;
    }
    check()
}

/// Says which commands of the tests and the demo are missing.
pub(crate) fn check() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        missing.iter().map(|(command, package)| format!("{command} (package {package})")).collect();
    bail!("no {}\n  remedy: install with your system's package manager", list.join(", "))
}

fn missing() -> Vec<&'static (&'static str, &'static str)> {
    COMMANDS.iter().filter(|(command, _)| which(command).is_none()).collect()
}

/// Installs a C++ compiler if there is none: libFuzzer is written in it.
pub(crate) fn ensure_cxx() -> Result<()> {
    if check_cxx().is_err() && apt::exists() {
        apt::install(&["g++".to_owned()])?;
    }
    check_cxx()
}

/// Says whether there is a C++ compiler.
pub(crate) fn check_cxx() -> Result<()> {
    if which("c++").is_none() {
        bail!("no c++ (package g++)\n  remedy: install with your system's package manager");
    }
    Ok(())
}

/// Installs what `lint` calls, and returns the path of cargo-deny.
pub(crate) fn ensure_lint() -> Result<PathBuf> {
    // Clippy builds what is fuzzed, and so libFuzzer.
    ensure_cxx()?;
    for (component, subcommand) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
        if !has(subcommand) {
            if which("rustup").is_none() {
                bail!("no cargo {subcommand}\n  remedy: install {component} where your cargo came from");
            }
            let title = format!("rustup component add {component}");
            let remedy = format!("make this work: rustup component add {component}");
            process::step(&title, Command::new("rustup").args(["component", "add", component]), &remedy)?;
        }
    }
    if cargo_deny().is_none() {
        let mut install = cargo();
        install.args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked"]);
        install.env_remove("CARGO_TARGET_DIR");
        process::step("build cargo-deny (some minutes)", &mut install, "cargo install cargo-deny --locked")?;
    }
    check_lint()
}

/// Says what `lint` misses, or returns the path of cargo-deny.
pub(crate) fn check_lint() -> Result<PathBuf> {
    for (component, subcommand) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
        if !has(subcommand) {
            bail!("no cargo {subcommand}\n  remedy: rustup component add {component}");
        }
    }
    match cargo_deny() {
        Some(file) => Ok(file),
        None => bail!("no cargo-deny\n  remedy: cargo install cargo-deny --locked"),
    }
}

/// True when cargo has this subcommand. In a toolchain it is a program beside cargo: asking it takes longer.
fn has(subcommand: &str) -> bool {
    let beside = Path::new(cargo().get_program()).with_file_name(format!("cargo-{subcommand}"));
    beside.is_absolute() && beside.is_file() || answer(cargo().args([subcommand, "--version"])).is_some()
}

fn cargo_deny() -> Option<PathBuf> {
    let own = cargo_home().map(|home| home.join("bin/cargo-deny"));
    own.filter(|file| file.is_file()).or_else(|| which("cargo-deny"))
}
