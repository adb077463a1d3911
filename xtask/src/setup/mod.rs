//! `setup`: finds what the other commands need, and installs what is missing.

mod apt;
mod archive;
mod bpf;
mod guest;
mod linker;
mod llvm;
mod rivals;
mod toolchain;
mod tools;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use self::bpf::Bpf;
pub(crate) use self::guest::{Guest, KERNELS, NEWEST, OF_GATE};
pub(crate) use self::toolchain::TARGET;
use crate::console::{Tone, paint};

/// `setup`: everything, for every command. What fails does not keep the rest from being installed. True when
/// nothing is missing.
pub(crate) fn install() -> bool {
    let found = [
        ("BPF", bpf::ensure().map(|bpf| bpf.describe())),
        ("tests and demo", tools::ensure().map(|()| "all commands are there".to_owned())),
        ("fuzz", tools::ensure_cxx().map(|()| "a C++ compiler is there".to_owned())),
        ("lint", tools::ensure_lint().map(|_| "clippy, rustfmt and cargo-deny are there".to_owned())),
    ];
    report(&found)
}

/// `setup --check`: only says what there is. True when nothing is missing.
pub(crate) fn check() -> bool {
    let found = [
        ("BPF", bpf::check().map(|bpf| bpf.describe())),
        ("tests and demo", tools::check().map(|()| "all commands are there".to_owned())),
        ("fuzz", tools::check_cxx().map(|()| "a C++ compiler is there".to_owned())),
        ("lint", tools::check_lint().map(|_| "clippy, rustfmt and cargo-deny are there".to_owned())),
    ];
    report(&found)
}

/// What the build needs.
pub(crate) fn for_build() -> Result<Bpf> {
    bpf::ensure()
}

/// What the end-to-end tests and the demo need besides a build.
pub(crate) fn for_tests() -> Result<()> {
    tools::ensure()
}

/// What the tests on the newest kernel of a suite of Debian need besides that.
pub(crate) fn for_guest(suite: &str) -> Result<Guest> {
    guest::ensure(suite)
}

/// What the tests with network cards need besides that.
pub(crate) fn for_cards(suite: &str) -> Result<Guest> {
    guest::ensure_with_cards(suite)
}

/// What `fuzz` needs besides a build.
pub(crate) fn for_fuzz() -> Result<()> {
    tools::ensure_cxx()
}

/// What `bench` needs besides that: the folder of those other proxies that are not installed.
pub(crate) fn for_bench() -> Option<PathBuf> {
    rivals::unpack()
}

/// What `bench guard` needs besides a build: the folder of nftables, if that is not installed.
pub(crate) fn for_guard_bench() -> Option<PathBuf> {
    rivals::unpack_nftables()
}

/// What `lint` needs besides a build: the path of cargo-deny.
pub(crate) fn for_lint() -> Result<PathBuf> {
    tools::ensure_lint()
}

fn report(found: &[(&str, Result<String>)]) -> bool {
    for (what, result) in found {
        match result {
            Ok(text) => println!("{} {what}: {text}", paint(Tone::Good, "ok     ")),
            Err(error) => println!("{} {what}: {error:#}", paint(Tone::Bad, "missing")),
        }
    }
    found.iter().all(|(_, result)| result.is_ok())
}
