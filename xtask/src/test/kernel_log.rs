//! What the kernel writes into its log (`/dev/kmsg`) while a stage runs. A warning or a bug there is a failure of the stage: it
//! costs a stack trace, and the host where `panic_on_warn` is set.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::complaint::Complaints;
use super::summary::Stage;
use crate::privilege;

/// `O_NONBLOCK` (`include/uapi/asm-generic/fcntl.h`).
const NONBLOCK: i32 = 0o4000;

/// A record is never longer.
const RECORD_MAX: usize = 8192;

/// How often the log is read: its ring holds some thousand records.
const PAUSE: Duration = Duration::from_millis(100);

/// Lines that are shown of one stage.
const SHOWN: usize = 20;

/// What a test writes into the log before it takes a socket away from the daemon in full swing: one read may be on its way.
const ANNOUNCED: &str = "snisplice-tests may cause one: TCP recvmsg seq # bug";

/// What such a warning says: its text, and its head.
const ANNOUNCED_LINES: [&str; 2] = ["TCP recvmsg seq # bug", "tcp_recvmsg_locked"];

/// What the guest's kernel has logged comes with this before each line, as `dmesg -r` shows it.
const GUEST: &str = "guest kernel: ";

/// Written into the log of the guest before its first test.
const GUEST_BEGIN: &str = "snisplice-tests begin";

/// Plays a stage while the log is read, and adds what it should not say.
pub(super) fn around(play: impl FnOnce() -> Stage) -> Stage {
    let watch = Watch::start();
    let mut stage = play();
    add(&mut stage, watch.and_then(Watch::end));
    stage
}

fn add(stage: &mut Stage, found: io::Result<Found>) {
    match found {
        Ok(found) => {
            let said = found.said();
            stage.failed.extend(said.failures);
            stage.warnings.extend(said.warnings);
        }
        // A stage that had nothing to do has left nothing undone.
        Err(_) if stage.ran() == 0 => {}
        Err(error) => {
            stage.skipped.push(format!("the kernel's log (/dev/kmsg) is not read: {error}"));
        }
    }
}

/// What is told of the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) failures: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// What the log of a guest should not say, given all that the stage wrote.
pub(super) fn of_guest(output: &str) -> Said {
    let mut found = Found::default();
    let (mut any, mut complete) = (false, false);
    for line in output.lines().filter_map(|line| line.trim_start().strip_prefix(GUEST)) {
        any = true;
        complete |= line.ends_with(GUEST_BEGIN);
        // `<priority>[ time] text`
        let Some((priority, text)) = line.strip_prefix('<').and_then(|line| line.split_once('>')) else {
            continue;
        };
        let text =
            text.strip_prefix('[').and_then(|text| text.split_once("] ")).map_or(text, |(_, text)| text);
        found.note(priority.parse().unwrap_or(0), text);
    }
    if any && !complete {
        found.overwritten += 1;
    }
    found.said()
}

/// Somebody who knows what comes into the log from some moment on.
enum Watch {
    /// A thread reads it.
    Reader { over: Arc<AtomicBool>, reader: JoinHandle<io::Result<Found>> },
    /// Only root may read it: what came behind this record is asked for at the end.
    After(u64),
}

impl Watch {
    fn start() -> io::Result<Self> {
        match OpenOptions::new().read(true).custom_flags(NONBLOCK).open("/dev/kmsg") {
            Ok(log) => Self::read(log),
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !privilege::is_root() => {
                let all = all_as_root()?;
                Ok(Self::After(records(&all).filter_map(sequence).last().unwrap_or(0)))
            }
            Err(error) => Err(error),
        }
    }

    fn read(mut log: File) -> io::Result<Self> {
        log.seek(SeekFrom::End(0))?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let reader = thread::spawn(move || {
            let mut found = Found::default();
            loop {
                // Asked first, so that the last look comes after the end.
                let is_last = seen.load(Ordering::SeqCst);
                found.read(&mut log)?;
                if is_last {
                    return Ok(found);
                }
                thread::sleep(PAUSE); // poll interval: the ring must not turn over in between
            }
        });
        Ok(Self::Reader { over, reader })
    }

    fn end(self) -> io::Result<Found> {
        match self {
            Self::Reader { over, reader } => {
                over.store(true, Ordering::SeqCst);
                reader.join().map_err(|_| io::Error::other("its reader panicked"))?
            }
            Self::After(last) => Ok(Found::after(last, &all_as_root()?)),
        }
    }
}

/// All that the log still has, read by a program that runs as root.
fn all_as_root() -> io::Result<String> {
    let mut command = privilege::as_root("dd");
    command.args(["if=/dev/kmsg", "bs=8192", "iflag=nonblock", "status=none"]);
    let output = command.stdin(Stdio::null()).output()?;
    // It ends with an error where the log ends. A log that is empty cannot be told from one that cannot be read.
    if output.stdout.is_empty() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The heads of the records. Lines that begin with a space are properties of the record before.
fn records(all: &str) -> impl Iterator<Item = &str> {
    all.lines().filter(|line| !line.starts_with(' '))
}

/// The number of a record.
fn sequence(record: &str) -> Option<u64> {
    record.split(',').nth(1)?.parse().ok()
}

/// What stood in the log.
#[derive(Default)]
struct Found {
    next: Option<u64>,
    /// Records that were overwritten before they could be read.
    overwritten: u64,
    complaints: Complaints,
    /// Warnings that tests have announced.
    announced: usize,
}

impl Found {
    /// What stands behind the record with this number.
    fn after(last: u64, all: &str) -> Self {
        let mut found = Self { next: Some(last + 1), ..Self::default() };
        records(all)
            .filter(|record| sequence(record).is_some_and(|number| number > last))
            .for_each(|record| found.record(record));
        found
    }

    fn read(&mut self, log: &mut File) -> io::Result<()> {
        let mut record = [0; RECORD_MAX];
        loop {
            match log.read(&mut record) {
                Ok(0) => return Ok(()),
                Ok(length) => self.record(&String::from_utf8_lossy(record.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Records were overwritten: the sequence number of the next one says how many.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one record: `priority,sequence,time,flags;text`, and lines of properties.
    fn record(&mut self, record: &str) {
        let Some((head, rest)) = record.split_once(';') else { return };
        let mut head = head.split(',');
        let mut number = || head.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(priority), Some(sequence)) = (number(), number()) else { return };
        self.overwritten += self.next.map_or(0, |next| sequence.saturating_sub(next));
        self.next = Some(sequence + 1);
        self.note(priority, rest.lines().next().unwrap_or_default());
    }

    fn note(&mut self, priority: u64, text: &str) {
        // The higher bits are the facility: 0 is the kernel, any other a program.
        let is_of_kernel = priority >> 3 == 0;
        if !is_of_kernel {
            self.announced += usize::from(text.contains(ANNOUNCED));
        } else {
            self.complaints.line(text);
        }
    }

    /// One line for each thing that should not be there.
    fn said(self) -> Said {
        let (mut lines, others) = self.complaints.by_blame();
        for part in ANNOUNCED_LINES {
            for _ in 0..self.announced {
                if let Some(at) = lines.iter().position(|line| line.contains(part)) {
                    lines.remove(at);
                }
            }
        }
        let mut failures = shown(lines);
        if self.overwritten > 0 {
            let lost = self.overwritten;
            failures.push(format!("the kernel logged so much that {lost} records or more could not be read"));
        }
        Said { failures, warnings: shown(others) }
    }
}

fn shown(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    let mut shown: Vec<String> = lines.into_iter().map(|line| format!("the kernel logged: {line}")).collect();
    if more > 0 {
        shown.push(format!("the kernel logged {more} more such lines: see dmesg"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 wrote it.
    const WARNING: [&str; 5] = [
        "4,812,1427965339,-;------------[ cut here ]------------\n",
        "4,813,1427965341,-;TCP recvmsg seq # bug: copied C02E0D62, seq C030AEDA, rcvnxt C033A562, fl 40\n",
        "4,814,1427965350,-;WARNING: CPU: 0 PID: 11679 at net/ipv4/tcp.c:2708 tcp_recvmsg_locked+0x17d/0x9e0\n",
        "4,815,1427965355,-;CPU: 0 UID: 0 PID: 11679 Comm: worker-0 Tainted: G        W           6.18.44 #1\n",
        "4,816,1427965391,-; tcp_recvmsg+0xaf/0x220\n SUBSYSTEM=net\n",
    ];

    fn failures(records: &[&str]) -> Vec<String> {
        let mut found = Found::default();
        records.iter().for_each(|record| found.record(record));
        found.said().failures
    }

    #[test]
    fn a_warning_is_a_failure_with_its_cause() {
        let failures = failures(&WARNING);
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(failures[0].starts_with("the kernel logged: TCP recvmsg seq # bug: copied C02E0D62"));
        assert!(failures[1].contains("net/ipv4/tcp.c:2708"));
    }

    #[test]
    fn an_announced_warning_may_come_once() {
        let announcement = format!("12,811,1427965000,-;{ANNOUNCED}\n");
        let once = [&[announcement.as_str()], WARNING.as_slice()].concat();
        assert!(failures(&once).is_empty());
        let again = [WARNING[1].replace("813", "817"), WARNING[2].replace("814", "818")];
        let twice = [once.as_slice(), &[&again[0], &again[1]]].concat();
        assert_eq!(failures(&twice).len(), 2);
        let by_the_kernel = format!("4,811,1427965000,-;{ANNOUNCED}\n");
        let records = [&[by_the_kernel.as_str()], WARNING.as_slice()].concat();
        assert_eq!(failures(&records).len(), 3, "a program announces, not the kernel");
    }

    #[test]
    fn bugs_and_verifier_splats_are_failures_and_other_lines_are_not() {
        for line in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "BUG: unable to handle page fault for address: ffffffffc0",
            "kernel BUG at net/core/skbuff.c:200!",
            "refcount_t: underflow; use-after-free.",
            "verifier bug: REG INVARIANTS VIOLATION (false_reg1)",
            "unregister_netdevice: waiting for veth0 to become free. Usage count = 2",
        ] {
            assert_eq!(failures(&[&format!("4,1,1,-;{line}\n")]).len(), 1, "{line}");
        }
        for line in [
            "veth0: renamed from tmp0",
            "TCP: request_sock_TCP: Possible SYN flooding on port 443. Sending cookies.",
            "IPv6: ADDRCONF(NETDEV_CHANGE): veth0: link becomes ready",
        ] {
            assert!(failures(&[&format!("6,1,1,-;{line}\n")]).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_a_program_writes_into_the_log_is_no_complaint_of_the_kernel() {
        assert!(failures(&["12,1,1,-;somebody: WARNING: BUG: Oops\n"]).is_empty());
    }

    #[test]
    fn a_log_that_is_not_read_is_told_of_a_stage_that_did_something() {
        let denied = || Err(io::Error::from(ErrorKind::PermissionDenied));
        let mut stage = Stage::default();
        add(&mut stage, denied());
        assert_eq!(stage.ran(), 0, "a name that no test has must not look as if one had been played");
        stage.passed = 1;
        add(&mut stage, denied());
        assert_eq!(stage.skipped.len(), 1);
    }

    #[test]
    fn of_the_whole_log_what_came_since_counts() {
        let old = "4,7,1,-;WARNING: CPU: 0 PID: 1 at old.c:1\n SUBSYSTEM=net\n6,8,2,-;one\n";
        assert_eq!(records(old).filter_map(sequence).last(), Some(8));
        let all = format!("{old}4,9,3,-;WARNING: CPU: 0 PID: 1 at new.c:1\n SUBSYSTEM=net\n6,10,4,-;two\n");
        assert_eq!(
            Found::after(8, &all).said().failures,
            ["the kernel logged: WARNING: CPU: 0 PID: 1 at new.c:1"]
        );
        assert_eq!(Found::after(6, old).said().failures.len(), 1);
        assert_eq!(Found::after(8, old).said(), Said::default());
        let turned_over = "6,500,9,-;three\n";
        assert_eq!(Found::after(8, turned_over).overwritten, 491);
    }

    #[test]
    fn records_that_were_overwritten_are_missed() {
        let failures = failures(&["6,10,1,-;one\n", "6,11,2,-;two\n", "6,500,3,-;three\n"]);
        assert_eq!(failures, ["the kernel logged so much that 488 records or more could not be read"]);
    }

    #[test]
    fn the_guest_writes_what_is_looked_for() {
        let init = include_str!("guest/init.sh");
        assert!(init.contains(&format!("echo \"{GUEST_BEGIN}\" >/dev/kmsg")));
        assert!(init.contains(&format!("bb dmesg -r | bb sed 's/^/{GUEST}/'")));
    }

    #[test]
    fn the_log_of_a_guest_comes_with_the_output() {
        let good =
            format!("test a ... ok\n{GUEST}<12>[   3.1] {GUEST_BEGIN}\n{GUEST}<6>[   4.0] veth0: up\n");
        assert_eq!(of_guest(&good), Said::default());
        let bad = format!("{good}{GUEST}<4>[    9.123456] WARNING: CPU: 1 PID: 7 at net/core/skmsg.c:1\n");
        assert_eq!(
            of_guest(&bad).failures,
            ["the kernel logged: WARNING: CPU: 1 PID: 7 at net/core/skmsg.c:1"]
        );
        let cut = format!("{GUEST}<6>[   4.0] veth0: up\n");
        assert_eq!(of_guest(&cut).failures.len(), 1, "what came first was overwritten");
        assert_eq!(of_guest("test a ... ok\n"), Said::default(), "no guest");
    }
}
