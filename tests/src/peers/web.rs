//! A web application, and what its clients do.

use anyhow::{Context as _, Result, bail, ensure};

use super::Duplex;
use super::backend::Service;
use super::http::{self, Head};
use crate::keyed;

/// What `GET /` answers.
pub const PAGE: &str = "the web application\n";

/// HTTP/1.1: `GET /`, `GET /keyed/<stream>/<bytes>`, and `POST /upload/<stream>` with keyed data as the body.
/// All other paths, with them the polling agents' `/handshake`, are not found.
#[derive(Debug)]
pub struct Web;

impl Service for Web {
    fn serve(&self, connection: &mut dyn Duplex) -> Result<()> {
        while let Some(head) = Head::read(connection)? {
            answer(connection, &head)?;
            connection.flush()?;
        }
        Ok(())
    }
}

fn answer(connection: &mut dyn Duplex, head: &Head) -> Result<()> {
    let length = head.content_length()?;
    let words: Vec<_> = head.start.split(' ').collect();
    let [verb, path, _] = words.as_slice() else { bail!("not a request: {:?}", head.start) };
    let parts: Vec<_> = path.split('/').skip(1).collect();
    match (*verb, parts.as_slice()) {
        ("GET", [""]) => answer_text(connection, "200 OK", PAGE),
        ("GET", ["keyed", stream, bytes]) => {
            let bytes: u64 = bytes.parse()?;
            write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
            Ok(keyed::send(connection, stream.parse()?, bytes)?)
        }
        ("POST", ["upload", stream]) => {
            if head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
                connection.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                connection.flush()?;
            }
            keyed::receive(connection, stream.parse()?, length)?;
            answer_text(connection, "200 OK", &format!("received {length} bytes\n"))
        }
        _ => answer_text(connection, "404 Not Found", "not found\n"),
    }
}

fn answer_text(connection: &mut dyn Duplex, status: &str, text: &str) -> Result<()> {
    write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
    Ok(())
}

/// Fetches the page and checks it.
///
/// # Errors
/// When it is not what [`Web`] answers.
pub fn fetch_page(connection: &mut dyn Duplex, host: &str) -> Result<()> {
    let response = http::get(connection, host, "/")?;
    ensure!(response.status == 200 && response.body == PAGE, "not the page: {response:?}");
    Ok(())
}

/// Fetches `bytes` bytes of keyed data and checks them.
///
/// # Errors
/// When the answer is another or a byte is wrong.
pub fn fetch_keyed(connection: &mut dyn Duplex, host: &str, stream: u64, bytes: u64) -> Result<()> {
    http::send_request(connection, "GET", host, &format!("/keyed/{stream}/{bytes}"), 0)?;
    let head = Head::read(connection)?.context("the server closed instead of answering")?;
    ensure!(head.status()? == 200 && head.content_length()? == bytes, "not the data: {head:?}");
    keyed::receive(connection, stream, bytes)
}

/// Uploads `bytes` bytes of keyed data, which the server checks.
///
/// # Errors
/// When the server does not confirm them.
pub fn upload(connection: &mut dyn Duplex, host: &str, stream: u64, bytes: u64) -> Result<()> {
    http::send_request(connection, "POST", host, &format!("/upload/{stream}"), bytes)?;
    keyed::send(connection, stream, bytes)?;
    let response = http::read_response(connection)?;
    let expected = format!("received {bytes} bytes\n");
    ensure!(
        response.status == 200 && response.body == expected,
        "the upload was not confirmed: {response:?}"
    );
    Ok(())
}
