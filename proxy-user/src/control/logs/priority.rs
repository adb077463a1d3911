//! Priorities for the journal of systemd: it reads `<N>` at the start of each line on stderr (sd-daemon(3)).

use tracing::Level;

use crate::sys;

/// The priorities of syslog(3) that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

impl Priority {
    pub(super) fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }

    /// `lines` with the priority at the start of each.
    pub(super) fn mark(self, lines: &[u8]) -> Vec<u8> {
        let mark = format!("<{}>", self as u8);
        let mut marked = Vec::with_capacity(lines.len() + 2 * mark.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            marked.extend_from_slice(mark.as_bytes());
            marked.extend_from_slice(line);
        }
        marked
    }
}

/// Whether stderr is the journal: systemd names its device and inode in `JOURNAL_STREAM`.
pub(super) fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    named.zip(sys::identity_of_stderr()).is_some_and(|(named, identity)| names(&named, identity))
}

fn names(named: &str, (device, inode): (u64, u64)) -> bool {
    named == format!("{device}:{inode}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_the_priority_of_its_record() {
        assert_eq!(Priority::of(Level::ERROR).mark(b"a\nb\n"), b"<3>a\n<3>b\n");
        assert_eq!(Priority::of(Level::WARN).mark(b"a"), b"<4>a");
        assert_eq!(Priority::of(Level::INFO).mark(b"a\n"), b"<6>a\n");
        assert_eq!(Priority::of(Level::TRACE).mark(b"a\n"), b"<7>a\n");
        assert_eq!(Priority::Info.mark(b""), b"");
    }

    #[test]
    fn only_the_named_stream_is_the_journal() {
        assert!(names("8:1234", (8, 1234)));
        assert!(!names("8:1234", (8, 1235)) && !names("", (8, 1234)));
    }
}
