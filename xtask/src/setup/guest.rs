//! Another kernel: Debian's own, unpacked and not installed, and a virtual machine to start it in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt;
use crate::process;
use crate::workspace::{own_target, which};

/// The virtual machine, and its package. It computes what the guest's processor does: /dev/kvm is not everywhere, and not everywhere
/// good for any kernel.
const MACHINE: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// Stands for the newest kernel of this release of Debian.
const KERNEL: &str = "linux-image-amd64";

/// The commands of the guest before it sees any other.
const COMMANDS: &str = "busybox-static";

/// A kernel that can be started.
pub(crate) struct Guest {
    pub(crate) machine: PathBuf,
    pub(crate) kernel: PathBuf,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The folder that has `lib/modules`.
    pub(crate) files: PathBuf,
    pub(crate) busybox: PathBuf,
}

/// Finds, or fetches, all that it takes.
///
/// # Errors
/// Where there are no such packages, or they cannot be had.
pub(crate) fn ensure() -> Result<Guest> {
    ensure!(cfg!(target_arch = "x86_64"), "this is for x86_64 only");
    if which(MACHINE.0).is_none() {
        ensure!(apt::exists(), "no {}: install it with your system's package manager", MACHINE.0);
        apt::install(&[MACHINE.1.to_owned()])?;
    }
    let files = own_target().join("tools/guest");
    if kernel(&files).is_none() {
        let package =
            apt::stands_for(KERNEL).with_context(|| format!("no package {KERNEL} on this system"))?;
        apt::unpack_alone(&[&package, COMMANDS], &files)?;
    }
    let Some((kernel, release)) = kernel(&files) else { bail!("no kernel in {}", files.display()) };
    let busybox = files.join("bin/busybox");
    let machine = which(MACHINE.0).with_context(|| format!("{} has no {}", MACHINE.1, MACHINE.0))?;
    if !files.join("lib/modules").join(&release).join("modules.dep").is_file() {
        process::step(
            &format!("list the modules of {release}"),
            Command::new(&busybox).arg("depmod").arg("-b").arg(&files).arg(&release),
            "remove target/tools/guest and try again",
        )?;
    }
    Ok(Guest { machine, kernel, release, files, busybox })
}

/// The kernel below a folder, and its release.
fn kernel(files: &Path) -> Option<(PathBuf, String)> {
    fs::read_dir(files.join("boot")).ok()?.flatten().find_map(|entry| {
        let release = entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((entry.path(), release))
    })
}
