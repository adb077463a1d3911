//! Where things are in this repository, and the cargo that started us.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace: the parent of `xtask/`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `target/` of the workspace: objects, tools and logs are always here, where `proxy-user/build.rs` looks.
pub(crate) fn own_target() -> PathBuf {
    root().join("target")
}

/// Where the host's cargo puts its artefacts: `CARGO_TARGET_DIR` if the user has set it.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => own_target(),
    }
}

/// The daemon as `build` leaves it.
pub(crate) fn daemon() -> PathBuf {
    target().join("release/snisplice")
}

/// Where cargo keeps the programs that it installs for the user.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// The cargo that started us, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target());
    // Its words are read by us and kept in logs.
    cargo.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_QUIET", "false");
    // `cargo run` describes xtask to us in these. Build scripts that watch them would run again each time.
    for name in variables(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        cargo.env_remove(name);
    }
    cargo
}

/// The names of those environment variables that `wanted` holds for.
pub(crate) fn variables(wanted: impl Fn(&str) -> bool) -> Vec<OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(&wanted)).collect()
}

/// `--locked` where there is a lock file to hold on to.
pub(crate) fn locked() -> Option<&'static str> {
    root().join("Cargo.lock").exists().then_some("--locked")
}

/// Finds a program on `PATH`, and where an ordinary user's `PATH` often does not go.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
