//! `build`: the BPF objects first, then the daemon that embeds them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::{self, TARGET};
use crate::workspace::{cargo, daemon, locked, own_target, root};

/// `build`: everything that `run` needs.
pub(crate) fn all() -> Result<()> {
    objects()?;
    host()?;
    println!("built {}", daemon().display());
    Ok(())
}

/// Builds `target/bpf/<name>.o` for each program of `proxy-ebpf`.
pub(crate) fn objects() -> Result<()> {
    let bpf = setup::for_build()?;
    let target = own_target().join("bpf-build");
    let mut build = bpf.cargo_build();
    build.args(["--package", "proxy-ebpf", "--bins"]).args(locked()).arg("--target-dir").arg(&target);
    build.current_dir(root());
    process::step(
        "build the BPF objects",
        &mut build,
        "fix the errors that the compiler reports in proxy-ebpf",
    )?;
    let built = target.join(TARGET).join("bpf");
    let place = own_target().join("bpf");
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    for name in programs()? {
        copy_if_changed(&built.join(&name), &place.join(format!("{name}.o")))?;
    }
    Ok(())
}

/// Builds the daemon from the objects that are there.
pub(crate) fn host() -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "snisplice"]).args(locked());
    process::step("build the daemon", &mut build, "fix the errors that the compiler reports in proxy-user")?;
    if !daemon().is_file() {
        bail!(
            "the build left no {}\n  remedy: unset build.target in your cargo configuration, or CARGO_BUILD_TARGET",
            daemon().display()
        );
    }
    Ok(())
}

/// The names of the objects: the `[[bin]]` sections of `proxy-ebpf/Cargo.toml`.
fn programs() -> Result<Vec<String>> {
    let manifest: PathBuf = root().join("proxy-ebpf/Cargo.toml");
    let text =
        fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let names = bin_names(&text);
    if names.is_empty() {
        bail!("{} has no [[bin]] with a name\n  remedy: add one for each BPF object", manifest.display());
    }
    Ok(names)
}

fn bin_names(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((key, value)) = line.split_once('=')
            && section == "[[bin]]"
            && key.trim() == "name"
        {
            names.push(value.trim().trim_matches('"').to_owned());
        }
    }
    names
}

/// An unchanged object keeps its time, so that cargo does not build the daemon again for nothing.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    fs::write(&fresh, new).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_by_the_bin_sections_alone() {
        let manifest = "[package]\nname = \"p\"\n[[bin]]\nname = \"a\"\npath = \"x\"\n[lib]\nname = \"l\"\n[[bin]]\nname=\"b\"\n";
        assert_eq!(bin_names(manifest), ["a", "b"]);
        assert!(bin_names("[package]\nname = \"p\"\n").is_empty());
    }

    #[test]
    fn an_object_is_written_when_it_changes_and_left_alone_when_not() {
        let dir = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to.o"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&to).unwrap().set_modified(long_ago).unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), long_ago, "written for nothing");
        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
