//! The log: to stderr, as text for people or as JSON for machines.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
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
    // The loader's own debug records are for its authors.
    let filter = EnvFilter::try_new(format!("aya=info,aya_obj=info,{level}")).with_context(|| {
        format!("--log-level {level:?} is no filter; use error, warn, info, debug, or TARGET=LEVEL,...")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let result = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Whether the BPF programs should log too.
pub(crate) fn debug_enabled() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}
