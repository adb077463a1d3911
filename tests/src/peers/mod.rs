//! Scripted peers: clients and servers that a test plays on both sides of the daemon.

pub mod agent;
pub mod backend;
pub mod busy;
pub mod dns;
pub mod here;
pub mod http;
pub mod polling;
pub mod programs;
pub mod raw;
pub mod tls;
pub mod web;

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, bail};

use crate::keyed::read_some;

/// The longest line that a peer accepts.
const LONGEST_LINE: usize = 4096;

/// A connection in both directions, TLS or not.
pub trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

/// Reads up to and with the next line feed and returns the line without its end. `None` at the end of the stream.
///
/// # Errors
/// When the stream fails or ends within a line, and for a line of more than 4 KiB or with invalid UTF-8.
pub(crate) fn read_line(from: &mut (impl Read + ?Sized)) -> Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match read_some(from, &mut byte) {
            Ok(0) => break,
            // A TLS peer that goes away without close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error).context("reading a line"),
            Ok(_) if byte == *b"\n" => {
                let line = String::from_utf8(line).context("a line that is not UTF-8")?;
                return Ok(Some(line.trim_end_matches('\r').to_owned()));
            }
            Ok(_) => line.extend(byte),
        }
        if line.len() > LONGEST_LINE {
            bail!("a line of more than {LONGEST_LINE} bytes");
        }
    }
    if line.is_empty() { Ok(None) } else { bail!("the stream ended within a line: {line:?}") }
}

/// Like [`read_line`], for a line that must come.
pub(crate) fn need_line(from: &mut (impl Read + ?Sized)) -> Result<String> {
    read_line(from)?.context("the stream ended before the next line")
}
