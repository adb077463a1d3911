//! Why a kernel feature cannot be used, in words that name the way out.

use std::error::Error;
use std::io;

use crate::sys;

/// A kernel feature that cannot be used here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; {remedy}")]
pub(crate) struct Unavailable {
    /// What failed, with the kernel's answer.
    pub(crate) what: String,
    /// What to change.
    pub(crate) remedy: String,
}

impl Unavailable {
    /// Explains why `step` failed.
    pub(crate) fn explain(step: &str, error: &(dyn Error + 'static)) -> Self {
        let what = format!("{step}: {}", chain(error));
        let code = os_error(error).and_then(io::Error::raw_os_error);
        let remedy = match code {
            Some(libc::EPERM | libc::EACCES) => denied(),
            Some(libc::ENOENT) => "use a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
            Some(libc::ENOSYS) => "use a kernel with CONFIG_BPF_SYSCALL=y".to_owned(),
            Some(libc::ENOMEM) => "free memory, or raise `ulimit -l` on kernels before 5.11".to_owned(),
            _ => "use a kernel with CONFIG_BPF_SYSCALL=y, CONFIG_NET=y and CONFIG_BPF_STREAM_PARSER=y, 5.13 or later"
                .to_owned(),
        };
        Self { what, remedy }
    }

    /// What this process is known to lack, if anything.
    pub(crate) fn missing_capabilities() -> Option<Self> {
        if sys::is_in_user_namespace() {
            let what =
                "BPF is denied: the rights of this process are those of a user namespace only".to_owned();
            return Some(Self { what, remedy: ROOTLESS.to_owned() });
        }
        let missing = missing()?;
        (!missing.is_empty()).then(|| Self {
            what: format!("BPF is denied: this process lacks {}", missing.join(" and ")),
            remedy: GRANT.to_owned(),
        })
    }
}

/// How a process gets what BPF takes.
const GRANT: &str = "run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (systemd: AmbientCapabilities= and \
                     CapabilityBoundingSet=; docker or podman run: --cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON)";

/// The kernel grants BPF to nobody in a user namespace, whatever his capabilities there.
pub(crate) const ROOTLESS: &str =
    "start the container as root of the host (no rootless docker or podman, no userns-remap, no --userns)";

const ALLOW: &str = "a seccomp filter or a security module refuses bpf(2): allow it (docker or podman run: --security-opt seccomp=FILE \
                     with a profile that allows bpf; systemd: SystemCallFilter=bpf)";

const UNKNOWN: &str = "a security module (SELinux, AppArmor) or the lockdown mode of the kernel refuses it: the kernel log and the audit log say which";

fn missing() -> Option<Vec<&'static str>> {
    let capabilities = sys::capabilities()?;
    let wanted = [
        (capabilities.bpf(), "CAP_BPF"),
        (capabilities.net_admin(), "CAP_NET_ADMIN"),
        (capabilities.perfmon(), "CAP_PERFMON"),
    ];
    Some(wanted.into_iter().filter(|(held, _)| !held).map(|(_, name)| name).collect())
}

/// What helps against "operation not permitted".
pub(super) fn denied() -> String {
    let remedy = match missing() {
        _ if sys::is_in_user_namespace() => ROOTLESS,
        Some(missing) if !missing.is_empty() => GRANT,
        _ if sys::has_seccomp_filter() => ALLOW,
        Some(_) => UNKNOWN,
        None => GRANT,
    };
    remedy.to_owned()
}

/// The innermost operating system error of a chain.
pub(super) fn os_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<io::Error>().or(found);
        cause = error.source();
    }
    found
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // A verifier's log can be megabytes: its end says what it did not like.
        let tail: String = part.chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
        text.push_str(": ");
        text.push_str(tail.trim());
        cause = error.source();
    }
    text
}
