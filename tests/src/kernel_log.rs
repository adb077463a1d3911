//! What the kernel writes into its log (`/dev/kmsg`) while a test runs. The log belongs to the whole host: a test looks only for
//! warnings that name a thread of its own daemon.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::daemon::Daemon;

/// A record is never longer (`PRINTK_MESSAGE_MAX` in the kernel, and what it puts around it).
const RECORD_MAX: usize = 8192;

/// What is written into the log before a test does what may make the kernel warn once. `cargo xtask test`, which looks for
/// warnings, knows this line.
const ANNOUNCEMENT: &[u8] = b"snisplice-tests may cause one: TCP recvmsg seq # bug";

/// The log from some moment on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// From now on. None: this host does not let anybody read it, which the test says.
    ///
    /// # Errors
    /// When the end of the log cannot be found.
    pub fn from_now() -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                println!("SKIPPED: the kernel's log cannot be read: {error}");
                return Ok(None);
            }
        };
        file.seek(SeekFrom::End(0)).context("finding the end of the kernel's log")?;
        Ok(Some(Self(file)))
    }

    /// Whether a test may do what makes the kernel warn once: where the log is read, this must be announced. If it cannot be, says that
    /// the test is skipped.
    #[must_use]
    pub fn may_warn() -> bool {
        let is_read = File::open("/dev/kmsg").is_ok();
        match OpenOptions::new().write(true).open("/dev/kmsg") {
            Err(error) if is_read => {
                println!("SKIPPED: a warning cannot be announced in the kernel's log: {error}");
                false
            }
            _ => true,
        }
    }

    /// Announces that a socket is about to be taken away from the daemon while bytes move: one read may be on its way.
    ///
    /// # Errors
    /// When nothing can be written into the log.
    pub fn announce_one() -> Result<()> {
        let mut log = OpenOptions::new().write(true).open("/dev/kmsg").context("opening the kernel's log")?;
        log.write_all(ANNOUNCEMENT).context("writing into the kernel's log")
    }

    /// The warnings since then, or since the last call, that the kernel gave while it ran a thread of the daemon: each with
    /// the line before it, which names the cause.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn warnings_of(&mut self, daemon: &Daemon) -> Result<Vec<String>> {
        let tasks = Path::new("/proc").join(daemon.pid().to_string()).join("task").read_dir()?;
        let threads: Vec<String> =
            tasks.filter_map(|task| Some(task.ok()?.file_name().to_str()?.to_owned())).collect();
        let texts = self.texts()?;
        let before = [""].into_iter().chain(texts.iter().map(String::as_str));
        let warnings = texts.iter().zip(before).filter(|(text, _)| names_one_of(&threads, text));
        Ok(warnings.map(|(text, before)| format!("{before}\n{text}")).collect())
    }

    fn texts(&mut self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut record = vec![0; RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(texts),
                Ok(length) => texts.extend(text(record.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(texts),
                // Records were overwritten before they were read: the next read goes on with the oldest one.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("reading the kernel's log"),
            }
        }
    }
}

/// The text of a record: `priority,sequence,time,flags;text`, and lines of properties.
fn text(record: &[u8]) -> Option<String> {
    let (_, text) = std::str::from_utf8(record).ok()?.split_once(';')?;
    text.lines().next().map(str::to_owned)
}

/// Whether a line is the head of a warning about one of these threads: `WARNING: CPU: 0 PID: 7 at …`, and since Linux 6.19
/// `WARNING: … at …, CPU#0: name/7`.
fn names_one_of(threads: &[String], line: &str) -> bool {
    line.starts_with("WARNING: ")
        && threads
            .iter()
            .any(|thread| line.contains(&format!(" PID: {thread} ")) || line.ends_with(&format!("/{thread}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_without_its_head_and_properties() {
        let record = b"4,1234,5678901,-;WARNING: CPU: 0 PID: 11679 at net/ipv4/tcp.c:2708 tcp_recvmsg_locked\n SUBSYSTEM=net\n";
        let text = text(record).expect("a record");
        assert_eq!(text, "WARNING: CPU: 0 PID: 11679 at net/ipv4/tcp.c:2708 tcp_recvmsg_locked");
    }

    #[test]
    fn only_warnings_about_these_threads_count() {
        let threads = ["11679".to_owned()];
        let old = "WARNING: CPU: 0 PID: 11679 at net/ipv4/tcp.c:2708 tcp_recvmsg_locked+0x17d/0x9e0";
        let new = "WARNING: net/ipv4/tcp.c:2708 at tcp_recvmsg_locked+0x17d/0x9e0, CPU#0: worker-0/11679";
        assert!(names_one_of(&threads, old) && names_one_of(&threads, new));
        assert!(!names_one_of(&["1167".to_owned()], old) && !names_one_of(&["679".to_owned()], new));
        assert!(!names_one_of(&threads, "CPU: 0 UID: 0 PID: 11679 Comm: worker-0 Tainted: G W 6.18.44"));
    }
}
