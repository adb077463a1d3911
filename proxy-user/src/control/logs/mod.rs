//! The log: to stderr, as text for people or as JSON for machines.

mod priority;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::{Exit, Failure, colour};
use crate::sys;
use priority::{Priority, is_journal};
use queue::Queue;

/// The end of the daemon waits so long for a log that is not read.
const FLUSH: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One line for people, in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is a level or a filter in the syntax of `tracing-subscriber`'s `EnvFilter`.
pub(crate) fn start(format: Format, level: &str) -> Result<(), Failure> {
    let wrong = || {
        let text = "is no filter; use error, warn, info, debug, or TARGET=LEVEL,...";
        Failure::new(Exit::Usage, format_args!("--log-level {level:?} {text}"))
    };
    if !level.split(',').all(names_a_level) {
        return Err(wrong());
    }
    // The loader's own debug records are for its authors.
    let filter = EnvFilter::try_new(format!("aya=info,aya_obj=info,{level}")).map_err(|_| wrong())?;
    let failed =
        |error: &dyn Display| Failure::new(Exit::System, format_args!("cannot start logging: {error}"));
    let queue = Queue::start(sys::Stderr, say_dropped).map_err(|error| failed(&error))?;
    let queue = QUEUE.get_or_init(|| queue);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Records { queue, is_journal: is_journal() })
        // By default a failure to write is told on stderr, and telling panics if that is what has failed. A full disk or a
        // dead log collector must not end flows.
        .log_internal_errors(false)
        .with_span_events(FmtSpan::NONE);
    let result = match format {
        Format::Text => builder.with_ansi(colour::is_wanted(&io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| failed(&error))?;
    // The default one writes to stderr itself, and would wait for a reader.
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What formatters write to.
struct Records {
    queue: &'static Queue,
    is_journal: bool,
}

impl<'a> MakeWriter<'a> for Records {
    type Writer = Record;

    fn make_writer(&'a self) -> Record {
        Record { queue: self.queue, priority: None }
    }

    fn make_writer_for(&'a self, record: &Metadata<'_>) -> Record {
        let priority = self.is_journal.then(|| Priority::of(*record.level()));
        Record { queue: self.queue, priority }
    }
}

/// What a formatter writes a record to, in one call.
struct Record {
    queue: &'static Queue,
    /// For the journal.
    priority: Option<Priority>,
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.priority {
            Some(priority) => self.queue.push(&priority.mark(bytes)),
            None => self.queue.push(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn say_dropped(records: u64) {
    tracing::warn!(records, "log records were dropped: the log could not be written as fast as they came");
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("no message");
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
    tracing::error!(thread = thread.name(), backtrace, "panicked at {place}: {message}");
}

/// Prints a warning for the operator on stderr, between the log records if there is a log.
pub(crate) fn print_warning(text: impl Display) {
    print(Priority::Warning, text);
}

/// Prints in the same way why a command has failed.
pub(crate) fn print_error(text: impl Display) {
    print(Priority::Error, text);
}

fn print(priority: Priority, text: impl Display) {
    let is_journal = is_journal();
    for line in text.to_string().lines() {
        let line = format!("{line}\n").into_bytes();
        let line = if is_journal { priority.mark(&line) } else { line };
        match QUEUE.get() {
            Some(queue) => queue.push(&line),
            None => drop(io::stderr().write_all(&line)),
        }
    }
}

/// Writes what is left, before the process ends, unless nobody reads it.
pub(crate) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// Counts records that were dropped.
pub(crate) fn dropped() -> Counter {
    QUEUE.get().map(|queue| queue.dropped()).unwrap_or_default()
}

/// A filter takes every word that is no level for a target, and then says nothing at all: a typo must not do that.
fn names_a_level(part: &str) -> bool {
    let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
    // The empty word parses as a level.
    !level.is_empty() && level.parse::<LevelFilter>().is_ok()
}

/// Whether the BPF programs should log too.
pub(crate) fn debug_enabled() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

#[cfg(test)]
mod tests {
    use super::names_a_level;

    #[test]
    fn a_word_that_is_no_level_is_no_filter() {
        for good in ["info", "WARN", "off", "snisplice=debug", "snisplice::front=trace"] {
            assert!(names_a_level(good), "{good}");
        }
        for bad in ["warning", "verbose", "", "banana=", "snisplice=loud"] {
            assert!(!names_a_level(bad), "{bad}");
        }
    }
}
