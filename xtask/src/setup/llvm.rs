//! The LLVM that bpf-linker is built on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt;
use crate::process::answer;

/// The newest LLVM that bpf-linker 0.13 knows (its features llvm-21 to llvm-23).
const NEWEST: u32 = 23;

/// An LLVM with headers and libraries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Llvm {
    pub(crate) major: u32,
    pub(crate) prefix: PathBuf,
}

/// The oldest installed LLVM that can read what a compiler with LLVM `least` writes.
pub(crate) fn find(least: u32) -> Option<Llvm> {
    (least..=NEWEST).find_map(|major| {
        [
            format!("llvm-config-{major}"),
            format!("/usr/lib/llvm-{major}/bin/llvm-config"),
            "llvm-config".into(),
        ]
        .iter()
        .find_map(|config| ask(config, major))
    })
}

/// The apt package of the oldest LLVM that would do, if apt has one.
pub(crate) fn package(least: u32) -> Option<String> {
    (least..=NEWEST)
        .map(|major| format!("llvm-{major}-dev"))
        .find(|package| apt::offers(std::slice::from_ref(package)))
}

/// What `config` says of itself, if it is of this major version and its headers are installed too.
fn ask(config: &str, major: u32) -> Option<Llvm> {
    let version = answer(Command::new(config).arg("--version"))?;
    let include = answer(Command::new(config).arg("--includedir"))?;
    let prefix = answer(Command::new(config).arg("--prefix"))?;
    let fits = version.split('.').next()?.trim().parse() == Ok(major);
    (fits && Path::new(include.trim()).join("llvm-c/Core.h").is_file())
        .then(|| Llvm { major, prefix: PathBuf::from(prefix.trim()) })
}
