//! Data that knows its own position.
//!
//! Each 8-byte block at offset `o` of stream `s` is a hash of `(s, o / 8)`. A checker that reads the wrong bytes can
//! thus say which bytes it got instead: lost, repeated, swapped, or from another stream.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, bail};

/// Bytes per hashed block.
const BLOCK: usize = 8;
/// Bytes per write and read.
const CHUNK: usize = 64 * 1024;
/// How far around a mismatch the checker looks for the bytes that it found there.
const SEARCH: u64 = 8 * 1024 * 1024;
/// How many bytes must match to call it the same place of the stream.
const SIGNATURE: usize = 16;

/// A place in a keyed stream.
#[derive(Debug, Clone, Copy)]
pub struct Keyed {
    stream: u64,
    offset: u64,
}

impl Keyed {
    /// The beginning of stream number `stream`.
    pub fn new(stream: u64) -> Self {
        Self { stream, offset: 0 }
    }

    /// Writes the next bytes of the stream into `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let block = block(self.stream, self.offset / BLOCK as u64);
            let done = usize::try_from(self.offset % BLOCK as u64).unwrap_or(0);
            let (_, block) = block.split_at(done);
            let count = block.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(block.split_at(count).0);
            self.offset += count as u64;
            rest = later;
        }
    }

    /// Compares `found` with the next bytes of the stream.
    ///
    /// # Errors
    /// At the first byte that differs; the message says where in the stream the found bytes belong.
    pub fn check(&mut self, found: &[u8]) -> Result<()> {
        let start = self.offset;
        let mut expected = vec![0; found.len()];
        self.fill(&mut expected);
        let Some(at) = expected.iter().zip(found).position(|(expected, found)| expected != found) else {
            return Ok(());
        };
        let place = start + at as u64;
        let verdict = match locate(self.stream, place, found.split_at(at).1) {
            Some(origin) if origin > place => format!("{} bytes are missing or come later", origin - place),
            Some(origin) => format!("the bytes of offset {origin} come again"),
            None => "bytes that are not of this stream".to_owned(),
        };
        bail!("stream {} is wrong at byte {place}: {verdict}", self.stream)
    }
}

/// Mixes the stream and the block number as SplitMix64 does in its last step.
fn block(stream: u64, index: u64) -> [u8; BLOCK] {
    let mut x = index.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).to_le_bytes()
}

/// The offset in the stream, near `place`, where the bytes `found` belong.
fn locate(stream: u64, place: u64, found: &[u8]) -> Option<u64> {
    let signature = found.get(..SIGNATURE)?;
    let from = place.saturating_sub(SEARCH);
    let length = usize::try_from(2 * SEARCH).ok()?;
    let mut around = vec![0; length];
    Keyed { stream, offset: from }.fill(&mut around);
    let at = around.windows(SIGNATURE).position(|window| window == signature)?;
    Some(from + at as u64)
}

/// Writes the first `bytes` bytes of stream `stream`.
///
/// # Errors
/// What the writer reports.
pub fn send(to: &mut (impl Write + ?Sized), stream: u64, bytes: u64) -> io::Result<()> {
    let mut keyed = Keyed::new(stream);
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let (now, _) = chunk.split_at_mut(count);
        keyed.fill(now);
        to.write_all(now)?;
        left -= count as u64;
    }
    to.flush()
}

/// Reads once. A system call that was interrupted is none: a socket with a timeout reports EINTR at the slightest cause.
///
/// # Errors
/// What the reader reports.
pub fn read_some(from: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Reads `bytes` bytes and checks that they are the beginning of stream `stream`. Reads not one byte more.
///
/// # Errors
/// When a byte differs, or when the reader ends or fails before.
pub fn receive(from: &mut (impl Read + ?Sized), stream: u64, bytes: u64) -> Result<()> {
    receive_on(from, &mut Keyed::new(stream), bytes)
}

/// Reads the next `bytes` bytes of a stream and checks them. Reads not one byte more.
///
/// # Errors
/// When a byte differs, or when the reader ends or fails before.
pub fn receive_on(from: &mut (impl Read + ?Sized), keyed: &mut Keyed, bytes: u64) -> Result<()> {
    let (stream, mut chunk, mut left) = (keyed.stream, vec![0; CHUNK], bytes);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = read_some(from, chunk.split_at_mut(want).0)
            .with_context(|| format!("reading stream {stream} after {} of {bytes} bytes", bytes - left))?;
        if count == 0 {
            bail!("stream {stream} ends after {} of {bytes} bytes", bytes - left);
        }
        keyed.check(chunk.split_at(count).0)?;
        left -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: usize) -> Vec<u8> {
        let mut data = Vec::new();
        send(&mut data, 3, bytes as u64).unwrap();
        data
    }

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let whole = stream(1000);
        let mut keyed = Keyed::new(3);
        for piece in whole.chunks(7) {
            keyed.check(piece).unwrap();
        }
        receive(&mut &whole[..], 3, 1000).unwrap();
    }

    #[test]
    fn a_short_stream_and_another_stream_are_errors() {
        let short = receive(&mut &stream(999)[..], 3, 1000).unwrap_err().to_string();
        assert!(short.contains("ends after 999 of 1000"), "{short}");
        let other = receive(&mut &stream(1000)[..], 4, 1000).unwrap_err().to_string();
        assert!(other.contains("not of this stream"), "{other}");
    }

    #[test]
    fn loss_and_repetition_are_told_apart() {
        let whole = stream(1000);
        let lost = [&whole[..100], &whole[333..]].concat();
        let error = receive(&mut &lost[..], 3, 700).unwrap_err().to_string();
        assert!(error.contains("at byte 100: 233 bytes are missing"), "{error}");
        let twice = [&whole[..500], &whole[401..]].concat();
        let error = receive(&mut &twice[..], 3, 1000).unwrap_err().to_string();
        assert!(error.contains("the bytes of offset 401 come again"), "{error}");
    }
}
