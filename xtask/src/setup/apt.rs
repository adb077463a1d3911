//! Debian's and Ubuntu's packages.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Result, bail};

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
