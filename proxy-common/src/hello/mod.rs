//! What the first bytes of a stream are: TLS records, the handshake message in them, and the server name
//! that its `ClientHello` asks for.
//!
//! [`inspect`] looks at bytes that were peeked, not read, and keeps nothing between two looks. The record
//! layer and the reassembly are ours; the extension and server-name entries are parsed with `tls-parser`.

mod body;
mod message;
mod name;
mod outcome;
mod record;

use std::borrow::Cow;
use std::net::IpAddr;

use message::Message;
pub(crate) use name::check_label;
pub use name::{HostName, NameError};
pub use outcome::{HelloFailure, Opening};
use record::Records;

/// The longest hello that is looked at.
///
/// Real ones, with post-quantum key shares, stay below 3 KiB. A pre-shared key's identity can have up to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxHello(usize);

impl MaxHello {
    /// Below this, hellos that are sent today would be refused.
    pub const MIN: Self = Self(4 * 1024);
    /// Enough for every TLS library.
    pub const DEFAULT: Self = Self(16 * 1024);
    /// The kernel lets clients send so much to a socket that nobody reads.
    pub const MAX: Self = Self(64 * 1024);

    /// Of so many bytes, or the nearest number that is allowed.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(bytes.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The most bytes of the body of the `ClientHello`.
    #[must_use]
    pub const fn body(self) -> usize {
        self.0
    }

    /// The most bytes of the stream that are looked at, record headers included.
    #[must_use]
    pub const fn peek(self) -> usize {
        2 * self.0
    }
}

impl Default for MaxHello {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the first bytes of a stream are.
///
/// The verdict is prefix-stable: once it is something else than `Incomplete`, more bytes do not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The beginning of a `ClientHello`, or nothing yet.
    Incomplete {
        /// How many bytes, counted from the start of the stream, must be there before the hello can be whole.
        ///
        /// More than were given and at most [`MaxHello::peek`]. No valid hello that starts with the given bytes
        /// ends earlier, so a caller may sleep until that many are there. A stream that is not a hello can
        /// end earlier: the caller also needs its deadline and the end of the stream.
        need: usize,
    },
    /// A whole `ClientHello`.
    Hello(ClientHello),
    /// The stream does not start with a TLS handshake record.
    NotTls,
    /// It starts as TLS, and then breaks the protocol; or the hello is longer than [`MaxHello::body`], or cannot end within
    /// [`MaxHello::peek`] bytes of the stream.
    Unusable(HelloFailure),
}

/// What is known of a whole `ClientHello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name that it asks for. With Encrypted Client Hello this is the outer, public name.
    pub sni: Sni,
}

/// The server name extension of a hello (RFC 6066 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sni {
    /// There is no such extension.
    Absent,
    /// A host name that can be routed on.
    Name(HostName),
    /// An address, which RFC 6066 forbids and old .NET clients send all the same. It matches no name.
    IpLiteral(IpAddr),
    /// The extension is well formed, but what it holds is no host name. It matches no name.
    Unusable,
}

/// How a hello breaks the protocol. The set is closed, so that it can be a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// A record of another type before the hello was whole.
    RecordType,
    /// A later record whose major version is not 3.
    RecordVersion,
    /// A record without content, which RFC 8446 section 5.1 forbids for handshake records.
    EmptyRecord,
    /// A record longer than 2^14 bytes (RFC 8446 section 5.1).
    RecordLength,
    /// The first handshake message is not a `ClientHello`.
    HandshakeType,
    /// A length inside the `ClientHello` does not fit.
    Body,
    /// A length in the list of extensions does not fit.
    Extensions,
    /// A length inside the server name extension does not fit, or there are two of that extension.
    ServerName,
}

impl Defect {
    /// Every defect.
    pub const ALL: [Self; 8] = [
        Self::RecordType,
        Self::RecordVersion,
        Self::EmptyRecord,
        Self::RecordLength,
        Self::HandshakeType,
        Self::Body,
        Self::Extensions,
        Self::ServerName,
    ];

    /// The name in metric labels and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RecordType => "record_type",
            Self::RecordVersion => "record_version",
            Self::EmptyRecord => "empty_record",
            Self::RecordLength => "record_length",
            Self::HandshakeType => "handshake_type",
            Self::Body => "body",
            Self::Extensions => "extensions",
            Self::ServerName => "server_name",
        }
    }
}

/// Looks at `bytes`, which must be all that is known of a stream from its very start.
///
/// A caller that sleeps until `need` bytes are there looks at most 50 times at one stream, however small its
/// records are: a handshake byte in a record of its own costs the sender 6 bytes, so each look finds at least
/// a sixth of what was missing.
///
/// Nothing is copied before the hello is whole, nor then if it came in one record.
#[must_use]
pub fn inspect(bytes: &[u8], max: MaxHello) -> Verdict {
    match bytes {
        // One byte tells most other protocols apart, and their clients may send no more before an answer.
        [] => Verdict::Incomplete { need: 1 },
        [kind, ..] if *kind != record::HANDSHAKE => Verdict::NotTls,
        [_, major, ..] if *major != record::MAJOR => Verdict::NotTls,
        _ => scan(bytes, max).unwrap_or_else(|verdict| verdict),
    }
}

/// Walks the records in stream order, so that more bytes cannot change what was decided on fewer.
fn scan(bytes: &[u8], max: MaxHello) -> Result<Verdict, Verdict> {
    let mut message = Message::new(max);
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(record) = record::read(rest).map_err(broken)? else {
            return Ok(Verdict::Incomplete { need: at + record::wire_len(message.missing()) });
        };
        let used = message.take(record.present)?;
        let missing = message.missing();
        // What does not fit in the rest of this record needs at least one more header.
        let later = missing.saturating_sub(record.len - used);
        let earliest_end = at + record::HEADER + used + (missing - later) + record::wire_len(later);
        if earliest_end > max.peek() {
            return Err(Verdict::Unusable(HelloFailure::TooLarge));
        }
        if missing == 0 {
            return body::server_name(&gather(bytes, message.len()))
                .map(|sni| Verdict::Hello(ClientHello { sni }))
                .map_err(broken);
        }
        if record.present.len() < record.len {
            return Ok(Verdict::Incomplete { need: earliest_end });
        }
        at += record::HEADER + record.len;
    }
}

const fn broken(defect: Defect) -> Verdict {
    Verdict::Unusable(HelloFailure::Broken(defect))
}

/// The body of the handshake message at the start of `bytes`, which was found to be whole and to have `len`
/// bytes with its header.
fn gather(bytes: &[u8], len: usize) -> Cow<'_, [u8]> {
    let first = Records::new(bytes).next().unwrap_or_default();
    if let Some(body) = first.get(message::HEADER..len) {
        return Cow::Borrowed(body);
    }
    let mut whole = Vec::with_capacity(len);
    for part in Records::new(bytes) {
        let wanted = part.len().min(len - whole.len());
        whole.extend_from_slice(part.get(..wanted).unwrap_or_default());
        if whole.len() == len {
            break;
        }
    }
    whole.drain(..message::HEADER.min(whole.len()));
    Cow::Owned(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handshake message of `len` bytes in records of `size` bytes.
    fn stream(len: u8, size: usize) -> Vec<u8> {
        let message: Vec<u8> = (0..len).collect();
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat())
            .collect()
    }

    #[test]
    fn a_message_in_one_record_is_not_copied() {
        for len in [100, 60] {
            let one = stream(100, 100);
            let body = gather(&one, len.into());
            assert!(matches!(body, Cow::Borrowed(_)));
            assert_eq!(*body, (4..len).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_message_in_several_records_is_joined() {
        for size in [1, 2, 3, 4, 5, 59, 99] {
            let body = gather(&stream(100, size), 60).into_owned();
            assert_eq!(body, (4..60).collect::<Vec<u8>>(), "records of {size}");
            assert!(body.capacity() <= 60);
        }
    }

    #[test]
    fn labels_are_unique_and_fit_for_metrics() {
        let labels = Defect::ALL.map(Defect::label);
        for (at, label) in labels.iter().enumerate() {
            assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
            assert!(!labels[..at].contains(label), "{label}");
        }
    }
}
