//! Limits and privileges of this process.

use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bits of the effective capability set (`include/uapi/linux/capability.h`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    const NET_ADMIN: u32 = 12;
    const NET_RAW: u32 = 13;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;

    const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// May send segments that no socket of TCP sends.
    pub(crate) const fn net_raw(self) -> bool {
        self.has(Self::NET_RAW)
    }

    /// May make socket maps.
    pub(crate) const fn net_admin(self) -> bool {
        self.has(Self::NET_ADMIN) || self.has(Self::SYS_ADMIN)
    }

    /// May load BPF programs that read kernel memory.
    pub(crate) const fn perfmon(self) -> bool {
        self.has(Self::PERFMON) || self.has(Self::SYS_ADMIN)
    }

    /// May load BPF programs.
    pub(crate) const fn bpf(self) -> bool {
        self.has(Self::BPF) || self.has(Self::SYS_ADMIN)
    }
}

/// The effective capabilities of this process, or None where /proc does not tell.
pub(crate) fn capabilities() -> Option<Capabilities> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    Some(Capabilities(u64::from_str_radix(line.trim(), 16).ok()?))
}

/// The inode number of the user namespace that the kernel begins with (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Whether the privileges of this process are those of a user namespace only, as in a rootless container.
pub(crate) fn is_in_user_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != FIRST_USER_NAMESPACE)
}

/// Whether a seccomp filter decides which system calls this process may make.
pub(crate) fn has_seccomp_filter() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).is_some_and(|mode| mode.trim() == "2")
}

/// Soft and hard limit on open files. None: unlimited.
pub(crate) fn open_file_limit() -> (Option<u64>, Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    (limit.current, limit.maximum)
}

/// Descriptors that this process has open.
pub(crate) fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// Raises the soft limit on open files to the hard one: a flow needs two.
pub(crate) fn raise_open_file_limit() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
