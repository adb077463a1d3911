//! Other kernels, and a virtual machine to start them in: Debian's packages, unpacked below `target/tools` and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::{self, Suite};
use crate::workspace::own_target;
use crate::{privilege, process};

/// Debian's suites whose newest kernel can be started.
pub(crate) const KERNELS: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "sid"];

/// The one that has the newest.
pub(crate) const NEWEST: &str = "trixie-backports";

/// Those that are started if nothing else is asked for: an old one and a new one.
pub(crate) const OF_GATE: [&str; 2] = ["bookworm", NEWEST];

/// Stands for the newest kernel of a suite, and how the names of the packages begin that it is made of.
const KERNEL_PACKAGE: (&str, &str) = ("linux-image-amd64", "linux-");

/// The virtual machine, the commands of the guest before it sees the files of the host, and what lists modules (busybox needs two
/// minutes for 4000 of them).
const MACHINE_PACKAGES: [&str; 3] = ["qemu-system-x86", "busybox-static", "kmod"];

/// Where packages have libraries: the second is that of most, the first that of the oldest and of libc.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// Where packages have the firmware of the virtual machine.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A virtual machine and a kernel that it can start.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) kernel: Kernel,
}

/// QEMU. It computes what the guest's processor does: /dev/kvm is not everywhere, and not everywhere good for any kernel.
pub(crate) struct Machine {
    root: PathBuf,
    loader: PathBuf,
    pub(crate) busybox: PathBuf,
}

/// A kernel of Debian.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The folder that has `lib/modules`.
    pub(crate) files: PathBuf,
}

/// The suite whose QEMU has all network cards that are tested.
const CARDS: &str = "trixie";

/// Finds, or downloads, all that it takes to start the newest kernel of a suite.
///
/// # Errors
/// If there are no such packages, or they cannot be downloaded.
pub(crate) fn ensure(suite: &str) -> Result<Guest> {
    let host = archive::host_release()?;
    with_machine(suite, "machine", &host)
}

/// The same with a QEMU that has more network cards.
///
/// # Errors
/// As above.
pub(crate) fn ensure_with_cards(suite: &str) -> Result<Guest> {
    with_machine(suite, "machine-cards", CARDS)
}

fn with_machine(suite: &str, folder: &str, of: &str) -> Result<Guest> {
    ensure!(cfg!(target_arch = "x86_64"), "this is for x86_64 only");
    let machine = Machine::ensure(folder, of)?;
    let kernel = Kernel::ensure(suite, &machine)?;
    Ok(Guest { machine, kernel })
}

impl Machine {
    /// Unpacks QEMU of `suite` into a folder of this name, if it is not there.
    fn ensure(folder: &str, suite: &str) -> Result<Self> {
        let root = own_target().join("tools").join(folder);
        if let Ok(machine) = Self::at(&root) {
            return Ok(machine);
        }
        let fresh = root.with_extension("new");
        let suite = Suite::open(suite)?;
        suite.unpack_with_needs("QEMU", &MACHINE_PACKAGES, &fresh)?;
        Self::at(&fresh)?;
        replace(&fresh, &root)?;
        Self::at(&root)
    }

    /// The machine below a folder, if it works.
    fn at(root: &Path) -> Result<Self> {
        let loader = LIBRARIES.map(|folder| root.join(folder).join("ld-linux-x86-64.so.2"));
        let loader = loader.into_iter().find(|file| file.is_file()).context("libc6 has no loader")?;
        let busybox = ["bin/busybox", "usr/bin/busybox"].map(|file| root.join(file));
        let busybox = busybox.into_iter().find(|file| file.is_file()).context("no busybox")?;
        let machine = Self { root: root.to_owned(), loader, busybox };
        let tried = machine.qemu(&mut Command::new("env")).arg("--version").output()?;
        let said = String::from_utf8_lossy(&tried.stderr);
        ensure!(tried.status.success(), "the unpacked QEMU does not start: {}", said.trim());
        Ok(machine)
    }

    /// The virtual machine, run as root so that it can read all files of the host.
    pub(crate) fn command(&self) -> Command {
        let mut command = privilege::as_root("env");
        self.qemu(&mut command);
        command
    }

    /// Writes the lists of modules that `modprobe` reads.
    fn list_modules(&self, kernel: &Kernel) -> Result<()> {
        let kmod = ["bin/kmod", "usr/bin/kmod"].map(|file| self.root.join(file));
        let kmod = kmod.into_iter().find(|file| file.is_file()).context("no kmod")?;
        let mut depmod = Command::new("env");
        self.by_loader(&mut depmod).args(["--argv0", "depmod"]).arg(kmod);
        depmod.arg("-b").arg(&kernel.files).arg(&kernel.release);
        let title = format!("list the modules of {}", kernel.release);
        process::step(&title, &mut depmod, "see what depmod says above")
    }

    fn qemu<'a>(&self, env: &'a mut Command) -> &'a mut Command {
        env.arg(format!("QEMU_MODULE_DIR={}", self.root.join(LIBRARIES[1]).join("qemu").display()));
        self.by_loader(env).arg(self.root.join("usr/bin/qemu-system-x86_64"));
        for folder in FIRMWARE {
            env.arg("-L").arg(self.root.join(folder));
        }
        env
    }

    /// Programs are started by the loader and with the libraries that were unpacked with them, whatever the host has.
    fn by_loader<'a>(&self, env: &'a mut Command) -> &'a mut Command {
        let libraries = LIBRARIES.map(|folder| self.root.join(folder).display().to_string());
        env.arg(&self.loader).args(["--library-path", &libraries.join(":")])
    }
}

impl Kernel {
    fn ensure(suite: &str, machine: &Machine) -> Result<Self> {
        let files = own_target().join("tools/kernels").join(suite);
        if let Some(kernel) = Self::below(&files) {
            return Ok(kernel);
        }
        let fresh = files.with_extension("new");
        let archive = Suite::open(suite)?;
        let (package, prefix) = KERNEL_PACKAGE;
        archive.unpack("the kernel", &archive.parts(package, prefix)?, &fresh)?;
        move_modules(&fresh)?;
        let kernel = Self::below(&fresh).with_context(|| format!("no kernel in {}", fresh.display()))?;
        machine.list_modules(&kernel)?;
        replace(&fresh, &files)?;
        Self::below(&files).with_context(|| format!("no kernel in {}", files.display()))
    }

    /// The kernel below a folder. Packages of 7.x have the image beside the modules.
    fn below(files: &Path) -> Option<Self> {
        let modules = fs::read_dir(files.join("lib/modules")).ok()?;
        modules.flatten().find_map(|entry| {
            let release = entry.file_name().into_string().ok()?;
            let places = [files.join(format!("boot/vmlinuz-{release}")), entry.path().join("vmlinuz")];
            let image = places.into_iter().find(|file| file.is_file())?;
            Some(Self { image, release, files: files.to_owned() })
        })
    }
}

/// Newer packages have their modules below `usr/lib`.
fn move_modules(files: &Path) -> Result<()> {
    let newer = files.join("usr/lib/modules");
    if newer.is_dir() {
        fs::create_dir_all(files.join("lib"))?;
        fs::rename(&newer, files.join("lib/modules")).context("cannot move the modules")?;
    }
    Ok(())
}

fn replace(fresh: &Path, old: &Path) -> Result<()> {
    if old.exists() {
        fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    fs::rename(fresh, old).with_context(|| format!("cannot create {}", old.display()))
}
