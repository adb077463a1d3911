//! Rust toolchains that can compile for BPF.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::apt;
use crate::process::{self, answer};
use crate::workspace::{variables, which};

/// Debian's toolchain that has a BPF `core` ready-made.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The LLVM that bpf-linker needs beside Debian's toolchain.
const DEBIAN_LLVM: &str = "llvm-22-dev";

/// BPF of this machine's byte order.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Where a toolchain's `core` for BPF comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Core {
    /// rustup's nightly builds it from the component rust-src.
    Source,
    /// Debian ships it.
    Ready,
}

/// A toolchain that can compile for BPF.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    core: Core,
    bin: PathBuf,
    /// Version, commit and LLVM of the compiler in one line.
    pub(crate) identity: String,
    /// LLVM's major version: what bpf-linker must at least have.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// Those that are ready on this machine, best first.
    pub(crate) fn ready() -> Vec<Self> {
        [Self::nightly(), Self::debian()].into_iter().flatten().collect()
    }

    fn nightly() -> Option<Self> {
        which("rustup")?;
        let mut rustup = Command::new("rustup");
        rustup.args(["which", "--toolchain", "nightly", "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
        let rustc = PathBuf::from(answer(&mut rustup)?.trim_end());
        let bin = rustc.parent()?;
        let source = bin.parent()?.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        source.is_file().then(|| Self::inspect(Core::Source, bin))?
    }

    fn debian() -> Option<Self> {
        let core = Path::new("/usr/lib/rustlib").join(TARGET).join("lib");
        let mut files = fs::read_dir(core).ok()?.flatten();
        let ready = files.any(|file| file.file_name().to_string_lossy().starts_with("libcore-"));
        (ready && Path::new("/usr/bin/cargo").is_file())
            .then(|| Self::inspect(Core::Ready, Path::new("/usr/bin")))?
    }

    fn inspect(core: Core, bin: &Path) -> Option<Self> {
        let mut rustc = Command::new(bin.join("rustc"));
        rustc.arg("-vV");
        scrub(&mut rustc);
        let about = answer(&mut rustc)?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (release, llvm) = (field("release:")?, field("LLVM version:")?);
        if !is_new_enough(release, env!("CARGO_PKG_RUST_VERSION")) {
            return None;
        }
        Some(Self {
            core,
            bin: bin.to_path_buf(),
            identity: format!("rustc {release} {} LLVM {llvm}", field("commit-hash:").unwrap_or_default()),
            llvm: llvm.split('.').next()?.parse().ok()?,
        })
    }

    /// In a few words, for people.
    pub(crate) fn describe(&self) -> String {
        let rustc = self.identity.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        match self.core {
            Core::Source => format!("{rustc} (rustup, rust-src)"),
            Core::Ready => format!("{rustc} (Debian)"),
        }
    }

    /// `cargo build` for BPF, linked by `linker`, with the profile `bpf`.
    pub(crate) fn cargo_build(&self, linker: &Path) -> Command {
        let mut cargo = Command::new(self.bin.join("cargo"));
        scrub(&mut cargo);
        cargo.args(["build", "--profile", "bpf", "--target", TARGET]);
        match self.core {
            Core::Source => {
                cargo.args(["-Z", "build-std=core"]);
            }
            // A stable compiler: it has to be told that unstable targets are wanted.
            Core::Ready => {
                cargo.env("RUSTC_BOOTSTRAP", "1");
            }
        }
        let flags = [&format!("--cfg=bpf_target_arch=\"{ARCH}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"];
        let triple = TARGET.to_ascii_uppercase().replace('-', "_");
        cargo
            .env("RUSTC", self.bin.join("rustc"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env(format!("CARGO_TARGET_{triple}_LINKER"), linker);
        cargo
    }
}

/// Installs a toolchain: Debian's where apt offers it, else rustup's nightly.
pub(crate) fn install() -> Result<()> {
    let packages: Vec<String> = DEBIAN.iter().chain([&DEBIAN_LLVM]).map(|&name| name.to_owned()).collect();
    if apt::offers(&packages) {
        return apt::install(&packages);
    }
    if which("rustup").is_none() {
        anyhow::bail!(
            "no Rust toolchain here can compile for BPF\n  remedy: install rustup, then run this again"
        );
    }
    process::step(
        "rustup toolchain install nightly with rust-src",
        Command::new("rustup")
            .args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"])
            .env_remove("RUSTUP_TOOLCHAIN"),
        "make this work: rustup toolchain install nightly --component rust-src",
    )
}

/// Takes out of a command's environment what the cargo that runs us, or the user, meant for the host's toolchain.
fn scrub(command: &mut Command) {
    for name in variables(is_for_host) {
        command.env_remove(name);
    }
}

fn is_for_host(name: &str) -> bool {
    const NETWORK: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_", "CARGO_BUILD_JOBS"];
    let of_cargo = name.starts_with("CARGO") && !NETWORK.iter().any(|kept| name.starts_with(kept));
    of_cargo
        || ["RUSTC", "RUSTDOC", "RUSTFLAGS"].iter().any(|prefix| name.starts_with(prefix))
        || ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"].contains(&name)
}

/// Compares `1.97.0-nightly` with `1.95`: the first two numbers count.
fn is_new_enough(release: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    numbers(release) >= numbers(least) && numbers(release).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_numbers_of_a_release_count() {
        assert!(is_new_enough("1.95.0", "1.95"));
        assert!(is_new_enough("1.100.0-nightly", "1.95"));
        assert!(is_new_enough("2.0.0", "1.95"));
        assert!(!is_new_enough("1.94.1", "1.95"));
        assert!(!is_new_enough("unknown", "1.95"));
    }

    #[test]
    fn the_hosts_choices_stay_out_of_the_bpf_build_and_the_network_settings_go_in() {
        for name in
            ["CARGO", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN"]
        {
            assert!(is_for_host(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX", "PATH", "RUSTUP_HOME"] {
            assert!(!is_for_host(name), "{name}");
        }
    }
}
