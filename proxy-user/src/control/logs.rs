//! The log: to stderr, as text for people or as JSON for machines.

use std::io::IsTerminal;

use anyhow::{Context, ensure};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One line for people, in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is a level or a filter in the syntax of `tracing-subscriber`'s `EnvFilter`.
pub(crate) fn start(format: Format, level: &str) -> anyhow::Result<()> {
    let wrong =
        || format!("--log-level {level:?} is no filter; use error, warn, info, debug, or TARGET=LEVEL,...");
    ensure!(level.split(',').all(names_a_level), wrong());
    // The loader's own debug records are for its authors.
    let filter = EnvFilter::try_new(format!("aya=info,aya_obj=info,{level}")).with_context(wrong)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // By default a failure to write is told on stderr, and telling panics if that is what has failed. A full disk or a
        // dead log collector must not end flows.
        .log_internal_errors(false)
        .with_span_events(FmtSpan::NONE);
    let result = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
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
