//! The configuration file: found, read, checked, and compiled to a [`Snapshot`].
//!
//! `raw` reads the shape of the file, `check` the values of each entry, `rules` what holds between entries,
//! `compile` makes the snapshot. All of them report into one list, so that an operator sees every error at
//! once. The reference for operators is docs/config.md.

mod address;
mod advice;
mod check;
mod compile;
mod diff;
mod field;
mod fields;
mod guard;
mod host;
mod keys;
mod packet;
mod places;
mod problem;
mod quantity;
mod raw;
mod repeated;
mod report;
mod rules;
mod source;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod unknown;
mod upstream_names;
mod value;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

pub(crate) use self::diff::{Change, Part, diff};
pub(crate) use self::host::Host;
pub(crate) use self::problem::{ConfigErrors, Problem};
pub(crate) use self::report::Fault;
use self::report::Report;
use self::source::Text;
use crate::hub::UpstreamRegistry;
use crate::hub::snapshot::Snapshot;

/// The configuration without a file. It is also what `snisplice config default` prints.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// Where the configuration is looked for when the command line does not name one.
pub(crate) const SYSTEM_PATH: &str = "/etc/snisplice/snisplice.toml";

/// What errors in [`DEFAULT`] would be reported under.
const DEFAULT_NAME: &str = "default.toml";

/// Braces within braces. No key of ours needs more than one pair.
const MAX_NESTING: usize = 4;

/// A configuration that can be run.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    /// What is allowed and most likely not meant, in the order of the file.
    pub(crate) warnings: Vec<Problem>,
}

/// Where a configuration came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This file.
    File(PathBuf),
    /// What was piped to the command.
    Stdin,
    /// No file: [`DEFAULT`].
    Embedded,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
            Self::Embedded => f.write_str("the embedded default"),
        }
    }
}

/// Loads the file at `path`, or standard input for `-`; without a path, [`SYSTEM_PATH`] when it exists, else [`DEFAULT`]. Warnings
/// are also about `host`.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, is not UTF-8, or is not a valid configuration.
pub(crate) fn load(
    path: Option<&Path>,
    host: &Host,
    registry: &UpstreamRegistry,
) -> Result<(Loaded, Origin), ConfigErrors> {
    load_from(path, Path::new(SYSTEM_PATH), host, registry)
}

fn load_from(
    path: Option<&Path>,
    system: &Path,
    host: &Host,
    registry: &UpstreamRegistry,
) -> Result<(Loaded, Origin), ConfigErrors> {
    // Only a file that is not there makes way for the default. One that cannot be read is an error.
    let absent = || system.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let path = match path {
        Some(path) => path,
        None if absent() => return Ok((parse(DEFAULT, DEFAULT_NAME, host, registry)?, Origin::Embedded)),
        None => system,
    };
    let text = source::read(path)?;
    let is_stdin = path == Path::new(source::STDIN);
    let (name, origin) = if is_stdin {
        (source::STDIN_NAME.to_owned(), Origin::Stdin)
    } else {
        (path.display().to_string(), Origin::File(path.to_owned()))
    };
    Ok((parse(&text, &name, host, registry)?, origin))
}

/// A network, as lists have it.
///
/// # Errors
/// What is wrong with it, and the way out.
pub(crate) fn network(text: &str) -> Result<IpNet, Fault> {
    value::source(text)
}

/// A time of at least 1 ms and at most a day.
///
/// # Errors
/// What is wrong with it, and the way out.
pub(crate) fn duration(text: &str) -> Result<Duration, Fault> {
    quantity::duration(text, &quantity::WAIT)
}

/// Checks and compiles a configuration text. `file` is the name to report problems under.
///
/// # Errors
/// The text is not valid TOML (then one mistake is reported) or not a valid configuration (then
/// all of them are).
pub(crate) fn parse(
    text: &str,
    file: &str,
    host: &Host,
    registry: &UpstreamRegistry,
) -> Result<Loaded, ConfigErrors> {
    if text.len() > source::MAX_BYTES {
        return Err(source::too_large(file));
    }
    let text = Text::new(file, text);
    let mut report = Report::new(&text);
    let Some(document) = read_toml(&text, &mut report) else { return Err(report.into_errors()) };
    let raw = raw::read(document.get_ref(), &mut report);
    let checked = check::check(&raw, host, &mut report);
    let warnings = report.finish()?;
    let Some(snapshot) = compile::compile(checked, registry) else { return Err(source::incomplete(file)) };
    Ok(Loaded { snapshot, warnings })
}

/// The document, or None with the reason in the report.
fn read_toml<'t>(text: &Text<'t>, report: &mut Report<'_>) -> Option<Spanned<DeTable<'t>>> {
    if let Some(at) = too_deep(text.as_str()) {
        let (at, fault) = syntax::explain_start(text.as_str()).unwrap_or_else(|| (at, nested_too_deep()));
        report.error(at, fault.what, fault.way_out);
        return None;
    }
    let error = match DeTable::parse(text.as_str()) {
        Ok(document) => return Some(document),
        Err(error) => error,
    };
    let at = error.span().map_or(text.as_str().len(), |span| span.start);
    let (at, fault) = repeated::explain(text, at, error.message())
        .or_else(|| syntax::explain(text.as_str(), at))
        .unwrap_or_else(|| {
            let what = format!("not valid TOML: {}", error.message());
            (at, Fault::new(what, "correct this first, the rest of the file is checked after it"))
        });
    report.error(at, fault.what, fault.way_out);
    None
}

fn nested_too_deep() -> Fault {
    Fault::new(
        format!("tables in braces are nested more than {MAX_NESTING} deep"),
        "write them as sections, such as [[listen]], with their keys below",
    )
}

/// Where braces are nested more than [`MAX_NESTING`] deep, as a byte offset.
///
/// The parser bounds nested braces and the dots of one key, not their product. Its tables are dropped by
/// recursion, so a file of a few kilobytes could overflow the stack of a thread.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    Source::new(text).lex().find_map(|token| {
        match token.kind() {
            TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth > MAX_NESTING).then(|| token.span().start())
    })
}
