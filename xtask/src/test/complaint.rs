//! Which lines of the kernel's log are complaints, and whether they are about what the tests do.

/// Parts of the lines with which the kernel reports that something is wrong with itself. Whoever caused it, a run with one is no good.
const FAULTS: [&str; 16] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at ",
    "Oops",
    "general protection fault",
    "Kernel panic",
    "KASAN: ",
    "UBSAN: ",
    "KFENCE: ",
    "refcount_t: ",
    "recvmsg seq # bug",
    "cleanup rbuf bug",
    "corruption",
    "verifier bug",
    "REG INVARIANTS VIOLATION",
    "suspicious RCU usage",
];

/// Parts of the lines with which it reports that something did not go on, or found no memory. A machine that is busy with something
/// else, or whose host gives it no time, causes them as well: they count as failures only if the report names what the tests run.
const STALLS: [&str; 8] = [
    "soft lockup",
    "workqueue lockup",
    "self-detected stall",
    "detected stalls",
    "detected expedited stalls",
    "blocked for more than",
    "page allocation failure",
    "unregister_netdevice: waiting for ",
];

/// What a report about the tests names: their processes and the threads of the daemon, or what the kernel does for them.
const OURS: [&str; 10] = [
    "snisplice",
    "worker-",
    "bpf_prog_",
    "bpf_check",
    "sk_psock",
    "sock_map",
    "tcp_bpf",
    "tcx_run",
    "veth",
    "cleanup_net",
];

/// Lines of a report behind the first one.
const REPORT: usize = 100;

/// The lines that begin a report.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Each with whether it counts as a failure.
    reports: Vec<(String, bool)>,
    /// How many lines may still belong to the last report of a stall.
    open: usize,
}

impl Complaints {
    /// Takes one line that the kernel has written.
    pub(super) fn line(&mut self, text: &str) {
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        // A list of all modules says nothing.
        let names_us = has(&OURS) && !text.contains("Modules linked in");
        if has(&STALLS) {
            self.reports.push((text.to_owned(), names_us));
            self.open = REPORT;
        } else if has(&FAULTS) {
            self.reports.push((text.to_owned(), true));
            self.open = 0;
        } else if self.open > 0 {
            self.open -= 1;
            if let Some((_, ours)) = self.reports.last_mut() {
                *ours |= names_us && is_of_a_report(text);
            }
        }
    }

    /// Those that count as failures, and the others.
    pub(super) fn by_blame(self) -> (Vec<String>, Vec<String>) {
        let (ours, others): (Vec<_>, Vec<_>) = self.reports.into_iter().partition(|(_, ours)| *ours);
        let texts = |reports: Vec<(String, bool)>| reports.into_iter().map(|(text, _)| text).collect();
        (texts(ours), texts(others))
    }
}

/// Whether the line tells of a task, or of a function that it was in.
fn is_of_a_report(text: &str) -> bool {
    text.starts_with(' ') || text.contains("Comm: ") || text.contains("RIP: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many failures and warnings these lines are.
    fn count(lines: &[&str]) -> (usize, usize) {
        let mut complaints = Complaints::default();
        lines.iter().for_each(|line| complaints.line(line));
        let (failures, warnings) = complaints.by_blame();
        (failures.len(), warnings.len())
    }

    #[test]
    fn a_stall_counts_if_its_report_names_what_the_tests_run() {
        let lockup = "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [cc1plus:77]";
        assert_eq!(count(&[lockup]), (0, 1));
        assert_eq!(count(&["watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [worker-0:77]"]), (1, 0));
        assert_eq!(count(&[lockup, "Modules linked in: cls_bpf veth", " do_syscall_64+0x5/0x10"]), (0, 1));
        assert_eq!(count(&[lockup, " bpf_prog_6deef7357e7b4530_ingress+0x17/0x90"]), (1, 0));
        assert_eq!(count(&["INFO: task worker-0:77 blocked for more than 120 seconds."]), (1, 0));
        assert_eq!(count(&["INFO: task kworker/0:1:9 blocked for more than 120 seconds."]), (0, 1));
        assert_eq!(
            count(&["rcu: INFO: rcu_preempt self-detected stall on CPU", "CPU: 1 PID: 5 Comm: rustc"]),
            (0, 1)
        );
        assert_eq!(
            count(&["rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", " sk_psock_backlog+0x1/0x2"]),
            (1, 0)
        );
        assert_eq!(count(&["rustc: page allocation failure: order:4, mode:0x40cc0"]), (0, 1));
        assert_eq!(count(&["snisplice: page allocation failure: order:4, mode:0x40cc0"]), (1, 0));
        assert_eq!(
            count(&["unregister_netdevice: waiting for veth0 to become free. Usage count = 2"]),
            (1, 0)
        );
    }

    #[test]
    fn what_follows_much_later_or_behind_another_report_is_no_part_of_it() {
        let lockup = "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [cc1plus:77]";
        let mut lines = vec![lockup];
        lines.extend([" do_something+0x1/0x2"; REPORT]);
        lines.push(" tcp_bpf_recvmsg+0x1/0x2");
        assert_eq!(count(&lines), (0, 1));
        assert_eq!(count(&[lockup, "veth0: renamed from tmp0"]), (0, 1));
        assert_eq!(
            count(&[lockup, "WARNING: CPU: 0 PID: 1 at net/x.c:1", " tcp_bpf_recvmsg+0x1/0x2"]),
            (1, 1)
        );
    }
}
