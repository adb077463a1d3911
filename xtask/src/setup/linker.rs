//! bpf-linker: finding one that works with a toolchain, and building one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::llvm::Llvm;
use super::toolchain::Toolchain;
use crate::console::{Step, Tone};
use crate::process::{self, answer, observe};
use crate::workspace::{cargo, cargo_home, own_target, which};

/// What `bpf-linker --version` must begin with.
const VERSION: &str = "bpf-linker 0.13.";

/// The same for cargo.
const REQUIREMENT: &str = "^0.13";

/// The smallest crate that has to be linked for BPF: one program and a panic handler.
const TRIAL_MANIFEST: &str = r#"
[package]
name = "trial"
version = "0.0.0"
edition = "2024"

[profile.bpf]
inherits = "release"
debug = 2
codegen-units = 1

[workspace]
"#;
const TRIAL_SOURCE: &str = r#"
#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub extern "C" fn trial(packet: *const u8) -> u32 {
    u32::from(!packet.is_null())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

/// The bpf-linkers of the right version that are on this machine, our own first.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let places = [Some(own()), users(), which("bpf-linker")];
    for file in places.into_iter().flatten().filter(|file| file.is_file()) {
        let version = answer(Command::new(&file).arg("--version")).unwrap_or_default();
        if version.starts_with(VERSION) && !found.contains(&file) {
            found.push(file);
        }
    }
    found
}

/// Links a trivial program: the only proof that a linker's LLVM can read what the compiler writes. The source is
/// written anew each time, since cargo would not see that the file behind the linker's path has changed.
pub(crate) fn works(linker: &Path, toolchain: &Toolchain) -> Result<bool> {
    let dir = tools().join("trial");
    let write = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(dir.join("src")).with_context(|| format!("cannot create {}", dir.display()))?;
    write("Cargo.toml", TRIAL_MANIFEST)?;
    write("src/main.rs", TRIAL_SOURCE)?;
    let mut step = Step::begin(&format!("does {} link for {}?", linker.display(), toolchain.describe()));
    let mut build = toolchain.cargo_build(linker);
    build.arg("--target-dir").arg(dir.join("target")).current_dir(&dir);
    let outcome = observe(&mut build, &mut step, |_, _| String::new())?;
    process::keep_log("bpf-linker trial", &outcome.output)?;
    let works = outcome.status.success();
    if works {
        step.end(Tone::Good, "yes");
    } else {
        step.end(Tone::Loud, "no (target/xtask/bpf-linker-trial.log)");
    }
    Ok(works)
}

/// Builds bpf-linker on `llvm`: for the user if there is none yet, else a copy of our own.
pub(crate) fn install(llvm: &Llvm) -> Result<PathBuf> {
    let taken = which("bpf-linker").is_some() || users().is_some_and(|file| file.exists());
    let (root, file) = match cargo_home().zip(users()) {
        Some((home, file)) if !taken => (home, file),
        _ => (tools(), own()),
    };
    let title = format!("build bpf-linker {REQUIREMENT} on LLVM {} into {}", llvm.major, root.display());
    let mut install = cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            REQUIREMENT,
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{}", llvm.major)])
        .arg("--root")
        .arg(root)
        .env("LLVM_PREFIX", &llvm.prefix)
        .env_remove("CARGO_TARGET_DIR");
    process::step(
        &title,
        &mut install,
        "put a bpf-linker 0.13 on PATH, from your system or from its releases",
    )?;
    Ok(file)
}

/// What tells one linker file from another: a rebuilt one has to be tried again.
pub(crate) fn fingerprint(linker: &Path) -> Option<String> {
    let file = fs::metadata(linker).ok()?;
    Some(format!("{}\n{} {}.{}", linker.display(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// `target/tools/`: what we install for this workspace alone.
pub(crate) fn tools() -> PathBuf {
    own_target().join("tools")
}

fn own() -> PathBuf {
    tools().join("bin/bpf-linker")
}

fn users() -> Option<PathBuf> {
    Some(cargo_home()?.join("bin/bpf-linker"))
}
