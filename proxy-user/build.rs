//! Finds the BPF objects that the daemon embeds. `cargo xtask build` makes them.

use std::env;
use std::path::{Path, PathBuf};

/// Each object, with the variable that tells the sources where it is.
const OBJECTS: [(&str, &str); 4] = [
    ("sockmap.o", "SNISPLICE_BPF_SOCKMAP"),
    ("local.o", "SNISPLICE_BPF_LOCAL"),
    ("guard.o", "SNISPLICE_BPF_GUARD"),
    ("packet.o", "SNISPLICE_BPF_PACKET"),
];

/// The folder of the objects, for builds outside the workspace's own target folder.
const OVERRIDE: &str = "SNISPLICE_BPF_DIR";

fn main() {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let workspace = here.parent().unwrap_or(Path::new("."));
    let folder = match env::var_os(OVERRIDE) {
        Some(folder) if !folder.is_empty() => workspace.join(folder),
        _ => workspace.join("target/bpf"),
    };
    for (name, variable) in OBJECTS {
        let object = folder.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.is_file() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            println!("cargo::error=no BPF object {}: run `cargo xtask build` first", object.display());
        }
    }
}
