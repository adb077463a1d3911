//! Just enough HTTP/1.1 for the peers and for the daemon's admin interface.

use anyhow::{Context as _, Result, bail, ensure};

use super::{Duplex, need_line, read_line};

/// The start line and headers of a message.
#[derive(Debug)]
pub struct Head {
    /// The start line: a request line or a status line.
    pub start: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads up to and with the empty line. `None` when the stream ends before the first byte.
    ///
    /// # Errors
    /// When the stream fails or ends within the head, or for a line that is no header.
    pub fn read(from: &mut dyn Duplex) -> Result<Option<Self>> {
        let Some(start) = read_line(from)? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let line = need_line(from)?;
            if line.is_empty() {
                return Ok(Some(Self { start, headers }));
            }
            let (name, value) = line.split_once(':').with_context(|| format!("not a header: {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The length of the body; 0 without the header.
    ///
    /// # Errors
    /// For a body whose length is not given as a number.
    pub fn content_length(&self) -> Result<u64> {
        ensure!(self.header("transfer-encoding").is_none(), "a chunked body: these peers do not read it");
        Ok(self.header("content-length").unwrap_or("0").parse()?)
    }

    /// The code of a status line.
    ///
    /// # Errors
    /// When the start line is none.
    pub fn status(&self) -> Result<u16> {
        let code = self.start.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1));
        Ok(code.with_context(|| format!("not a status line: {:?}", self.start))?.parse()?)
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The content type; empty without one.
    pub kind: String,
    /// The body as text.
    pub body: String,
}

/// Sends a request without a body and reads the answer.
///
/// # Errors
/// When the connection fails or the answer is not HTTP.
pub fn get(connection: &mut dyn Duplex, host: &str, path: &str) -> Result<Response> {
    get_with(connection, host, path, "")
}

/// The same with further lines of headers.
///
/// # Errors
/// When the connection fails or the answer is not HTTP.
pub fn get_with(connection: &mut dyn Duplex, host: &str, path: &str, headers: &str) -> Result<Response> {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").as_bytes())?;
    connection.flush()?;
    read_response(connection)
}

/// Sends a request line and headers; a body of `body_length` bytes has to follow.
///
/// # Errors
/// When the connection fails.
pub fn send_request(
    connection: &mut dyn Duplex,
    verb: &str,
    host: &str,
    path: &str,
    body_length: u64,
) -> Result<()> {
    let request = format!("{verb} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {body_length}\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    Ok(connection.flush()?)
}

/// Reads an answer with its body.
///
/// # Errors
/// When the connection fails or the answer is not HTTP.
pub fn read_response(connection: &mut dyn Duplex) -> Result<Response> {
    let Some(head) = Head::read(connection)? else { bail!("the server closed instead of answering") };
    let body = if head.header("transfer-encoding") == Some("chunked") {
        read_chunks(connection)?
    } else {
        read_part(connection, usize::try_from(head.content_length()?)?)?
    };
    let kind = head.header("content-type").unwrap_or_default().to_owned();
    Ok(Response { status: head.status()?, kind, body: String::from_utf8(body)? })
}

fn read_part(connection: &mut dyn Duplex, length: usize) -> Result<Vec<u8>> {
    let mut part = vec![0; length];
    connection.read_exact(&mut part).context("reading the body of an answer")?;
    Ok(part)
}

/// A body in pieces (RFC 9112, section 7.1), without trailers.
fn read_chunks(connection: &mut dyn Duplex) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = need_line(connection)?;
        let length = usize::from_str_radix(&line, 16).with_context(|| format!("not a length: {line:?}"))?;
        body.append(&mut read_part(connection, length)?);
        ensure!(need_line(connection)?.is_empty(), "a piece of a body does not end as it says");
        if length == 0 {
            return Ok(body);
        }
    }
}
