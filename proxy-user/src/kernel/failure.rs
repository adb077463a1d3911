//! Why a kernel feature cannot be used, in words that name the way out.

use std::error::Error;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;
use proxy_common::kernels::{Part, Version};

use crate::sys;

/// A kernel feature that cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub(crate) struct Unavailable {
    /// What failed, with the kernel's answer.
    pub(crate) what: String,
    /// What to change.
    pub(crate) remedy: String,
    /// What the kernel's verifier has logged, all of it: it may be megabytes.
    pub(crate) log: Option<String>,
}

impl Unavailable {
    /// Explains why `step` failed.
    pub(crate) fn explain(step: &str, error: &(dyn Error + 'static)) -> Self {
        let code = os_error(error).and_then(io::Error::raw_os_error);
        if let Some(log) = verifier_log(error) {
            return Self::refused(step, log, code);
        }
        let remedy = match code {
            Some(libc::EPERM | libc::EACCES) => denied(),
            Some(libc::ENOENT) => "use a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
            Some(libc::ENOSYS) => "use a kernel with CONFIG_BPF_SYSCALL=y".to_owned(),
            Some(libc::ENOMEM) => "free memory, or raise `ulimit -l` on kernels before 5.11".to_owned(),
            _ => "use a kernel with CONFIG_BPF_SYSCALL=y, CONFIG_NET=y and CONFIG_BPF_STREAM_PARSER=y"
                .to_owned(),
        };
        Self { what: format!("{step}: {}", chain(error)), remedy, log: None }
    }

    /// Explains why the kernel does not take a program.
    fn refused(step: &str, log: String, code: Option<i32>) -> Self {
        let what = format!("{step}: {}", verdict(&log, code));
        Self { what, remedy: NEWER.to_owned(), log: Some(log) }
    }

    /// The same with the way out on a kernel that is too old for what it was needed for.
    pub(crate) fn of(self, part: Part) -> Self {
        if !may_be_too_old(self.is_about_rights(), sys::kernel().version, part) {
            return self;
        }
        let (oldest, need) = (part.oldest(), part.need());
        let remedy = format!(
            "use Linux {}.{} or later: {need}; connections are copied meanwhile",
            oldest.major, oldest.minor
        );
        let remedy = match part {
            Part::Guard => format!(
                "use Linux {}.{} or later: {need}; no packet is dropped meanwhile",
                oldest.major, oldest.minor
            ),
            Part::Sockmap | Part::Local | Part::Packet => remedy,
        };
        Self { remedy, ..self }
    }

    /// Rights are missing, whatever the kernel has.
    fn is_about_rights(&self) -> bool {
        [GRANT, ROOTLESS, ALLOW, UNKNOWN].contains(&self.remedy.as_str())
    }

    /// What this process is known to lack, if anything.
    pub(crate) fn missing_capabilities() -> Option<Self> {
        if sys::is_in_user_namespace() {
            let what =
                "BPF is denied: the rights of this process are those of a user namespace only".to_owned();
            return Some(Self { what, remedy: ROOTLESS.to_owned(), log: None });
        }
        let missing = missing()?;
        (!missing.is_empty()).then(|| Self {
            what: format!("BPF is denied: this process lacks {}", missing.join(" and ")),
            remedy: GRANT.to_owned(),
            log: None,
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

/// What can be said if the kernel refuses a program and is not known to be too old.
const NEWER: &str = "use another kernel; `snisplice doctor --json` has the whole log of the kernel, for a report of the fault";

fn may_be_too_old(is_about_rights: bool, version: Option<Version>, part: Part) -> bool {
    !is_about_rights && version.is_some_and(|version| version < part.oldest())
}

/// All that the kernel says of a program that it refuses.
fn verifier_log(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let program = match error.downcast_ref::<EbpfError>() {
            Some(EbpfError::ProgramError(error)) => Some(error),
            _ => error.downcast_ref(),
        };
        if let Some(ProgramError::LoadError { verifier_log, .. }) = program {
            let log = verifier_log.to_string();
            return (!log.trim().is_empty()).then_some(log);
        }
        cause = error.source();
    }
    None
}

/// The last thing that a log of the kernel says before its figures: what it does not like.
fn verdict(log: &str, code: Option<i32>) -> String {
    const FIGURES: [&str; 4] = ["processed ", "verification time ", "stack depth ", "insns processed "];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.rfind(|line| !FIGURES.iter().any(|figure| line.starts_with(figure)));
    let said: String = said.unwrap_or_default().chars().take(MOST).collect();
    match code {
        Some(code) => format!("{said} ({})", io::Error::from_raw_os_error(code)),
        None => said,
    }
}

/// Characters of a message of the kernel or a library.
const MOST: usize = 400;

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
        // Some say what their cause says.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text.chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn version(major: u16, minor: u16) -> Version {
        Version { major, minor, patch: 7 }
    }

    #[test]
    fn the_last_word_of_the_verifier_is_what_is_said() {
        let old = "0: (bf) r6 = r1\ninvalid func unknown#160\nprocessed 3 insns (limit 1000000) max_states_per_insn 0\n";
        assert_eq!(
            verdict(old, Some(libc::EINVAL)),
            "invalid func unknown#160 (Invalid argument (os error 22))"
        );
        let new = "141: (71) r5 = *(u8 *)(r5 +0)\ninvalid size of register fill\nverification time 1400 usec\nstack depth 136+0\n\n";
        assert_eq!(verdict(new, None), "invalid size of register fill");
        assert_eq!(verdict("", None), "");
    }

    #[test]
    fn a_program_that_is_refused_is_no_matter_of_rights() {
        let log = "cannot update sockmap in this context\n".to_owned();
        let explained = Unavailable::refused("the kernel refuses a BPF program", log, Some(libc::EACCES));
        assert!(!explained.remedy.contains("CAP_BPF"), "{explained}");
        assert!(explained.what.contains("cannot update sockmap"), "{explained}");
        assert!(explained.log.is_some_and(|log| log.contains("in this context")));
    }

    #[test]
    fn only_kernels_before_the_oldest_are_too_old_and_missing_rights_are_said_first() {
        assert!(may_be_too_old(false, Some(version(5, 10)), Part::Sockmap));
        assert!(may_be_too_old(false, Some(version(5, 15)), Part::Packet));
        assert!(may_be_too_old(false, Some(version(5, 17)), Part::Guard));
        assert!(!may_be_too_old(false, Some(version(5, 18)), Part::Guard));
        assert!(!may_be_too_old(true, Some(version(5, 10)), Part::Guard));
        assert!(!may_be_too_old(false, None, Part::Guard));
    }
}
