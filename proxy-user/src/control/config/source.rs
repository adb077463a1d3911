//! The text of a configuration: read within bounds, and from byte offsets to lines and columns.

use std::io::{self, Read};
use std::path::Path;

use super::problem::{ConfigErrors, Problem, printable};
use crate::sys;

/// Largest configuration file in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// The path that stands for standard input, and the name to report its problems under.
pub(super) const STDIN: &str = "-";
pub(super) const STDIN_NAME: &str = "stdin";

/// A configuration text and the name to report it under.
pub(super) struct Text<'t> {
    file: String,
    text: &'t str,
    /// Byte offset of the first byte of each line. The first is 0.
    line_starts: Vec<usize>,
}

impl<'t> Text<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        Self { file: printable(file), text, line_starts: std::iter::once(0).chain(ends).collect() }
    }

    pub(super) fn as_str(&self) -> &'t str {
        self.text
    }

    /// Line and column of a byte offset, both from 1. The column counts characters, a byte order mark not.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= at);
        let start = line.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or_default();
        let before = if start == 0 { before.strip_prefix('\u{feff}').unwrap_or(before) } else { before };
        (line, before.chars().count() + 1)
    }

    /// `line L, column C`, to name a second place in a message.
    pub(super) fn place(&self, at: usize) -> String {
        let (line, column) = self.position(at);
        format!("line {line}, column {column}")
    }

    /// The problem at a byte offset. The message is kept on one line.
    pub(super) fn problem(&self, at: usize, message: &str) -> Problem {
        let (line, column) = self.position(at);
        Problem {
            file: self.file.clone(),
            line: Some(line),
            column: Some(column),
            message: printable(message),
        }
    }

    /// A problem without a place.
    pub(super) fn problem_of_file(&self, message: String) -> Problem {
        Problem::of_file(&self.file, message)
    }
}

/// Reads a file of at most [`MAX_BYTES`] that is UTF-8; for [`STDIN`] the standard input.
pub(super) fn read(path: &Path) -> Result<String, ConfigErrors> {
    let (file, bytes) = if path == Path::new(STDIN) {
        let bytes = bounded(io::stdin().lock());
        (STDIN_NAME.to_owned(), bytes.map_err(|error| unreadable(STDIN_NAME, &error))?)
    } else {
        let file = path.display().to_string();
        let opened = sys::open_regular(path);
        let bytes = opened.and_then(bounded).map_err(|error| unreadable(&file, &error))?;
        (file, bytes)
    };
    if bytes.len() > MAX_BYTES {
        return Err(too_large(&file));
    }
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let (valid, rest) = error.as_bytes().split_at_checked(end).unwrap_or_default();
        not_utf8(&file, str::from_utf8(valid).unwrap_or_default(), rest.first().copied().unwrap_or_default())
    })
}

/// The bytes, up to one more than the limit.
fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    reader.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn unreadable(file: &str, error: &io::Error) -> ConfigErrors {
    match error.kind() {
        io::ErrorKind::NotFound => ConfigErrors::of_file(
            file,
            "there is no such file",
            "name another one with --config, or write one to start from with 'snisplice config default'",
        ),
        io::ErrorKind::PermissionDenied => ConfigErrors::of_file(
            file,
            "this user may not read the file",
            "give the user that snisplice runs as read access to the file and to the directories above it",
        ),
        // What it is stands in the error.
        io::ErrorKind::InvalidInput => {
            let way_out = "name a file with --config, or '-' for standard input";
            ConfigErrors::of_file(file, error, way_out)
        }
        _ => ConfigErrors::of_file(
            file,
            format_args!("the file cannot be read: {error}"),
            "name a readable file with --config",
        ),
    }
}

/// The error for a text whose entries do not fit each other, though each was found good.
pub(super) fn incomplete(file: &str) -> ConfigErrors {
    ConfigErrors::of_file(
        file,
        "a [[listen]] or [[route]] names an unknown upstream",
        "write the name of an [[upstream]] as its 'to', and report this: the line should be named here",
    )
}

/// The error for a text above [`MAX_BYTES`].
pub(super) fn too_large(file: &str) -> ConfigErrors {
    ConfigErrors::of_file(
        file,
        "the file is larger than 1 MiB",
        "check that this is the right file, and replace lists of names by '*' and '**' patterns",
    )
}

fn not_utf8(file: &str, valid: &str, byte: u8) -> ConfigErrors {
    let text = Text::new(file, valid);
    let message = format!("byte 0x{byte:02X} is not UTF-8; save the file as UTF-8");
    ConfigErrors::single(text.problem(valid.len(), &message))
}
