//! End-to-end tests on another kernel, in a virtual machine that sees the files of this host and cannot change them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::part::Part;
use super::{THREADS, cargo_test};
use crate::process::answer;
use crate::setup::Guest;
use crate::workspace;

/// The kernel's bounds on what takes long are for real processors. All that it logs is kept to the end.
const PATIENT: &str = "log_buf_len=4M rcupdate.rcu_cpu_stall_timeout=120 watchdog_thresh=60 sysctl.kernel.hung_task_timeout_secs=600";

/// The first process of the guest.
const INIT: &str = include_str!("guest/init.sh");

/// What the guest needs before it sees the modules among the host's files.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Megabytes of memory of the guest.
const MEMORY: &str = "3072";

/// How many times as long as on this machine tests wait there: on a loaded host a daemon has taken 46 s to start.
const SLOWNESS: u32 = 15;

/// A guest that does not say for so long that it lives stands still. It says so every ten seconds, once it has begun.
pub(super) const SILENCE: Duration = Duration::from_secs(120);

/// How it says that.
pub(super) const LIVES: &str = "guest lives";

/// What `snisplice doctor` says of the guest's kernel comes with this before each line.
pub(super) const DOCTOR: &str = "guest doctor: ";

/// The same in JSON, which has all that the kernel has logged of programs that it refuses.
pub(super) const REPORT: &str = "guest report: ";

/// The virtual machine that plays `parts`, after the commands `before`, and ends. Standard output is that of the tests, and what cargo
/// would say comes by standard error.
pub(super) fn play(guest: &Guest, before: &str, parts: &[Part]) -> Result<Command> {
    let dir = workspace::own_target().join("xtask/guest");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for path in [&dir, &guest.machine.busybox] {
        let text = path.to_string_lossy();
        ensure!(
            !text.contains([' ', '"', ',', '\'']),
            "{text} has a character that a kernel's command line cannot have"
        );
    }
    write(&dir.join("init.sh"), INIT)?;
    write(&dir.join("job.sh"), &job(before, parts)?)?;
    link(&guest.kernel.files.join("lib/modules"), &dir.join("modules"))?;
    let memory = first_files(guest, &dir)?;
    let mut machine = guest.machine.command();
    machine.args(["-accel", "tcg", "-cpu", "max", "-smp", THREADS, "-m", MEMORY]);
    machine.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    machine.arg("-kernel").arg(&guest.kernel.image).arg("-initrd").arg(memory);
    machine.arg("-append").arg(format!(
        "console=ttyS0 panic=-1 loglevel=4 {PATIENT} dir={} busybox={}",
        dir.display(),
        guest.machine.busybox.display()
    ));
    machine.arg("-serial").arg(format!("file:{}", dir.join("console.log").display()));
    machine.args(["-device", "virtio-serial", "-chardev", "stdio,id=out,signal=off"]);
    machine.args(["-device", "virtconsole,chardev=out", "-chardev", "file,path=/dev/stderr,id=err"]);
    machine.args(["-device", "virtconsole,chardev=err"]);
    machine.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
    machine.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
    Ok(machine)
}

/// Commands of the guest that say what doctor does. To load all programs twice takes a guest ten seconds.
pub(super) fn doctor() -> String {
    let daemon = workspace::daemon();
    let daemon = daemon.display();
    format!(
        "{{ uname -r; '{daemon}' doctor; }} 2>&1 | sed 's/^/{DOCTOR}/' >&2\n\
         '{daemon}' doctor --json 2>&1 | sed 's/^/{REPORT}/' >&2\n"
    )
}

/// The commands of the guest. All programs are announced first, so that those are missed that it does not come to.
fn job(before: &str, parts: &[Part]) -> Result<String> {
    let mut text = format!("while sleep 10; do echo '{LIVES}'; done >&2 &\n{before}");
    for part in parts {
        text.push_str(&format!("echo '     Running {} ({})' >&2\n", part.program, part.datapath.name()));
    }
    let quoted = |path: &Path| format!("'{}'", path.display());
    text.push_str(&format!("cd {}\n", quoted(&workspace::root().join("tests"))));
    text.push_str(&format!(
        "export SNISPLICE_BIN={} RUST_BACKTRACE=1 SNISPLICE_TEST_SLOWNESS={SLOWNESS}\n",
        quoted(&workspace::daemon())
    ));
    for part in parts {
        let program = executable(&part.program)?;
        text.push_str(&format!(
            "SNISPLICE_TEST_DATAPATH={} {} {} --test-threads {} --show-output --color never\n",
            part.datapath.name(),
            quoted(&program),
            part.tests.join(" "),
            part.threads,
        ));
    }
    Ok(text)
}

/// Builds a test program, and says where it is.
fn executable(program: &str) -> Result<PathBuf> {
    let mut cargo = cargo_test(&["--package", "snisplice-tests", "--test", program, "--no-run"]);
    let output = cargo.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.trim_start().strip_prefix("Executable "));
    let path = line.and_then(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
    Ok(workspace::root().join(path.with_context(|| format!("cargo names no program {program}:\n{said}"))?))
}

/// The memory that the machine starts with: a shell, and the modules that it takes to see the rest.
fn first_files(guest: &Guest, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("first");
    for place in ["bin", "proc", "sys", "dev", "host", "own", "whole"] {
        fs::create_dir_all(root.join(place))?;
    }
    fs::copy(&guest.machine.busybox, root.join("bin/busybox"))?;
    write(&root.join("init"), &format!("#!/bin/busybox sh\n{INIT}"))?;
    let modules = Path::new("lib/modules").join(&guest.kernel.release);
    let listed = fs::read_to_string(guest.kernel.files.join(&modules).join("modules.dep"))?;
    let (names, needed) = closure(&listed, &MODULES);
    // Others are part of the kernel's image.
    write(&root.join("modules"), &names.join(" "))?;
    for file in &needed {
        let file = modules.join(file);
        let to = root.join(&file);
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
        fs::copy(guest.kernel.files.join(&file), &to)
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let kept =
        listed.lines().filter(|line| line.split_once(':').is_some_and(|(file, _)| needed.contains(file)));
    write(
        &root.join(&modules).join("modules.dep"),
        &kept.fold(String::new(), |text, line| text + line + "\n"),
    )?;
    archive(guest, &root, &dir.join("first.cpio"))
}

/// Packs a folder as the kernel wants it.
fn archive(guest: &Guest, root: &Path, file: &Path) -> Result<PathBuf> {
    let mut chmod = Command::new(&guest.machine.busybox);
    ensure!(chmod.args(["chmod", "755"]).arg(root.join("init")).status()?.success(), "chmod failed");
    let mut find = Command::new(&guest.machine.busybox);
    let names = answer(find.arg("find").arg(".").current_dir(root)).context("busybox find failed")?;
    let mut cpio = Command::new(&guest.machine.busybox);
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(root);
    cpio.stdin(Stdio::piped()).stdout(fs::File::create(file)?).stderr(Stdio::null());
    let mut child = cpio.spawn().context("cannot start busybox")?;
    child.stdin.take().context("no pipe")?.write_all(names.as_bytes())?;
    ensure!(child.wait()?.success(), "cpio failed");
    Ok(file.to_owned())
}

/// Which of these modules a `modules.dep` has, and the files of those and of all that they need.
fn closure<'a, 'b>(listed: &'a str, names: &[&'b str]) -> (Vec<&'b str>, BTreeSet<&'a str>) {
    let is_named = |file: &str, name: &str| {
        let stem = file.rsplit('/').next().unwrap_or(file).split('.').next().unwrap_or(file);
        stem.replace('-', "_") == name
    };
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once(':')).collect();
    let mut found = Vec::new();
    let mut wanted: Vec<&str> = Vec::new();
    for &name in names {
        if let Some(&(file, _)) = lines.iter().find(|(file, _)| is_named(file, name)) {
            found.push(name);
            wanted.push(file);
        }
    }
    let mut needed = BTreeSet::new();
    while let Some(file) = wanted.pop() {
        if needed.insert(file) {
            let line = lines.iter().find(|(name, _)| *name == file);
            wanted.extend(line.into_iter().flat_map(|(_, needs)| needs.split_whitespace()));
        }
    }
    (found, needed)
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, at).with_context(|| format!("cannot make {}", at.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_with_all_that_it_needs() {
        let listed = "k/a.ko: k/b-c.ko\nk/b-c.ko: k/d.ko\nk/d.ko:\nk/e.ko.xz: k/d.ko\n";
        assert_eq!(closure(listed, &["a"]), (vec!["a"], BTreeSet::from(["k/a.ko", "k/b-c.ko", "k/d.ko"])));
        assert_eq!(closure(listed, &["b_c"]), (vec!["b_c"], BTreeSet::from(["k/b-c.ko", "k/d.ko"])));
        assert_eq!(closure(listed, &["x", "e"]), (vec!["e"], BTreeSet::from(["k/e.ko.xz", "k/d.ko"])));
    }
}
