//! Debian's and Ubuntu's packages.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::workspace::which;
use crate::{console, privilege, process};

/// True on a system whose packages come by apt.
pub(crate) fn exists() -> bool {
    which("apt-get").is_some()
}

/// True when `packages` can be installed here without removing others. Reads the package lists anew, once, if
/// they do not know the packages.
pub(crate) fn offers(packages: &[String]) -> bool {
    exists() && (resolves(packages) || (privilege::can_be_root() && refresh() && resolves(packages)))
}

/// Installs `packages`.
///
/// # Errors
/// Without root and sudo, or if apt fails. The error is one line that says who is to install what.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let list = packages.join(" ");
    if !privilege::can_be_root() {
        bail!("root has to run: apt-get install --no-install-recommends {list}");
    }
    privilege::unlock(&format!("install {list}"))?;
    // Freshly made machines have no lists at all.
    if !resolves(packages) {
        refresh();
    }
    process::step(
        &format!("apt-get install {list}"),
        root_apt().args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages),
        &format!("see what apt says above, then run as root: apt-get install --no-install-recommends {list}"),
    )
}

/// Fetches `packages` and what they need that is not installed, and unpacks them below `root` without installing
/// them.
///
/// # Errors
/// Without root and sudo, or if apt or dpkg-deb fails.
pub(crate) fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    let list = known(packages)?;
    privilege::unlock(&format!("fetch {list}"))?;
    let archives = root.join("archives");
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("cannot create {}", archives.display()))?;
    let mut option = OsString::from("Dir::Cache::archives=");
    option.push(&archives);
    process::step(
        &format!("apt-get --download-only {list}"),
        root_apt()
            .arg("-o")
            .arg(option)
            .args(["--yes", "--no-install-recommends", "--no-remove", "--download-only", "install"])
            .args(packages),
        &format!("see what apt says above, or install {list} by other means"),
    )?;
    extract(&archives, root)
}

/// The names of packages that apt knows, as it shows them to people.
fn known(packages: &[&str]) -> Result<String> {
    let owned: Vec<String> = packages.iter().map(|&package| package.to_owned()).collect();
    let list = owned.join(" ");
    if !offers(&owned) {
        bail!("no package {list} can be had here: install it by other means");
    }
    Ok(list)
}

/// Unpacks all packages in a folder, and removes it.
fn extract(archives: &Path, root: &Path) -> Result<()> {
    let files = fs::read_dir(archives).with_context(|| format!("cannot read {}", archives.display()))?;
    for file in files {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::step(
                &format!("unpack {}", file.file_name().unwrap_or_default().display()),
                Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root),
                "see what dpkg-deb says above",
            )?;
        }
    }
    // apt's own user may own what it left there.
    let removed = privilege::as_root("rm").arg("-r").arg(archives).status();
    match removed {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("cannot remove {}", archives.display()),
    }
}

/// Asks apt for a dry run.
fn resolves(packages: &[String]) -> bool {
    Command::new("apt-get")
        .args(["--simulate", "--no-remove", "--no-install-recommends", "--quiet", "install"])
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Fetches the package lists, once in the life of this process. A list that could not be fetched is no failure:
/// whether the packages are there now is what counts.
fn refresh() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        if let Err(error) = privilege::unlock("refresh the package lists") {
            console::say(&format!("{error:#}"));
            return false;
        }
        let remedy = "check the network and apt's list of sources; what follows tries without";
        if let Err(error) = process::step("apt-get update", root_apt().arg("update"), remedy) {
            console::say(&format!("{error:#}"));
        }
        true
    })
}

fn root_apt() -> Command {
    let mut command = privilege::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]);
    command
}
