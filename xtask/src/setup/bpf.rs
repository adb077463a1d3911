//! A toolchain and a linker that are known to work together.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolchain::{self, Toolchain};
use super::{apt, linker, llvm};

/// What compiles and links the BPF objects.
pub(crate) struct Bpf {
    toolchain: Toolchain,
    linker: PathBuf,
}

impl Bpf {
    /// In a few words, for people.
    pub(crate) fn describe(&self) -> String {
        format!("{}, {}", self.toolchain.describe(), self.linker.display())
    }

    /// `cargo build` for BPF with the profile `bpf`.
    pub(crate) fn cargo_build(&self) -> Command {
        self.toolchain.cargo_build(&self.linker)
    }

    /// What has to be the same for a pair to be known to work.
    fn stamp(&self) -> Option<String> {
        Some(format!("{}\n{}\n", self.toolchain.identity, linker::fingerprint(&self.linker)?))
    }
}

/// Finds a pair that works, or installs what is missing for one.
pub(crate) fn ensure() -> Result<Bpf> {
    let ready = Toolchain::ready();
    if let Some(bpf) = find(&ready)? {
        return Ok(bpf);
    }
    if let Some(bpf) = build_linker(&ready)? {
        return Ok(bpf);
    }
    toolchain::install()?;
    let ready = Toolchain::ready();
    let found = match find(&ready)? {
        Some(bpf) => Some(bpf),
        None => build_linker(&ready)?,
    };
    found.with_context(|| missing(&ready))
}

/// Finds a pair that works.
pub(crate) fn check() -> Result<Bpf> {
    let ready = Toolchain::ready();
    find(&ready)?.with_context(|| format!("{}\n  or: cargo xtask setup", missing(&ready)))
}

fn missing(ready: &[Toolchain]) -> String {
    match ready.first() {
        None => "no Rust toolchain here can compile for BPF\n  remedy: rustup toolchain install nightly \
                 --component rust-src"
            .to_owned(),
        Some(toolchain) => format!(
            "no bpf-linker that works with {}\n  remedy: put a bpf-linker 0.13 on PATH, or install LLVM {} with its \
             headers so that one can be built",
            toolchain.describe(),
            toolchain.llvm
        ),
    }
}

/// The pair that worked last time, else the first one that works now.
fn find(ready: &[Toolchain]) -> Result<Option<Bpf>> {
    let stamp = fs::read_to_string(stamp_file()).unwrap_or_default();
    let known = stamp.lines().nth(1).map(PathBuf::from);
    for toolchain in ready {
        if let Some(linker) = known.clone() {
            let bpf = Bpf { toolchain: toolchain.clone(), linker };
            if bpf.stamp().is_some_and(|now| now == stamp) {
                return Ok(Some(bpf));
            }
        }
    }
    let linkers = if ready.is_empty() { Vec::new() } else { linker::candidates() };
    for toolchain in ready {
        for linker in &linkers {
            if linker::works(linker, toolchain)? {
                return remember(Bpf { toolchain: toolchain.clone(), linker: linker.clone() }).map(Some);
            }
        }
    }
    Ok(None)
}

/// Builds a linker for the first toolchain whose LLVM is here or can be had.
fn build_linker(ready: &[Toolchain]) -> Result<Option<Bpf>> {
    for toolchain in ready {
        if llvm::find(toolchain.llvm).is_none()
            && let Some(package) = llvm::package(toolchain.llvm)
        {
            apt::install(&[package])?;
        }
        let Some(llvm) = llvm::find(toolchain.llvm) else { continue };
        let linker = linker::install(&llvm)?;
        if linker::works(&linker, toolchain)? {
            return remember(Bpf { toolchain: toolchain.clone(), linker }).map(Some);
        }
        bail!(
            "the bpf-linker just built does not link for {}\n  whole log: target/xtask/bpf-linker-trial.log\n  \
             remedy: put a bpf-linker 0.13 with LLVM {} or later on PATH",
            toolchain.describe(),
            toolchain.llvm
        );
    }
    Ok(None)
}

fn remember(bpf: Bpf) -> Result<Bpf> {
    let file = stamp_file();
    if let Some(stamp) = bpf.stamp() {
        fs::create_dir_all(linker::tools()).context("cannot create target/tools")?;
        fs::write(&file, stamp).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(bpf)
}

fn stamp_file() -> PathBuf {
    linker::tools().join("bpf-linker.works")
}
