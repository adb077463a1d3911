//! Host names as they are compared: lower case, ASCII, no trailing dot.

use std::fmt;
use std::net::IpAddr;

use super::Sni;

/// The longest host name, without its trailing dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// The longest label of a host name.
const MAX_LABEL: usize = 63;

/// A host name in the one form that is compared: lower-case ASCII, without a trailing dot, at most 253 bytes,
/// with labels of 1 to 63 letters, digits, `-` and `_`.
///
/// Names with underscores or leading hyphens are no host names by RFC 1123, but exist and work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Box<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.what(), self.remedy())]
pub enum NameError {
    /// There is nothing, or only a dot.
    Empty,
    /// It is longer than 253 bytes.
    TooLong(usize),
    /// Two dots in a row, or one at the start.
    EmptyLabel,
    /// A part between dots is longer than 63 bytes.
    LabelTooLong(String),
    /// It has a character outside of ASCII.
    NotAscii(char),
    /// It has an ASCII character that no host name has.
    Character(char),
    /// It is an IPv4 or IPv6 address.
    Address(IpAddr),
}

impl NameError {
    /// What is wrong.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Empty => "the name is empty".to_owned(),
            Self::TooLong(bytes) => format!("the name has {bytes} bytes"),
            Self::EmptyLabel => "there is nothing between two dots or before the first".to_owned(),
            Self::LabelTooLong(part) => format!("the part \"{part}\" has {} bytes", part.len()),
            Self::NotAscii(character) => format!("the character {character:?} is not ASCII"),
            Self::Character(character) => format!("the character {character:?} cannot be in a host name"),
            Self::Address(address) => {
                format!("{address} is an address, and clients send no server name for one")
            }
        }
    }

    /// What to do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Empty => "write a host name such as polling.example.com",
            Self::TooLong(_) => "a host name has at most 253",
            Self::EmptyLabel => "remove the extra dot",
            Self::LabelTooLong(_) => "each part between dots has at most 63",
            Self::NotAscii(_) => "write the name in its xn-- form (punycode), as clients send it",
            Self::Character(_) => {
                "write only letters, digits, '-', '_' and dots, without scheme, port or path"
            }
            Self::Address(_) => "write a host name",
        }
    }
}

impl HostName {
    /// Reads a name in any case, with or without one trailing dot.
    ///
    /// # Errors
    ///
    /// What keeps `text` from being a host name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(address) = address(text) {
            return Err(NameError::Address(address));
        }
        let name = without_dot(text);
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(NameError::TooLong(name.len()));
        }
        name.split('.').try_for_each(check_label)?;
        Ok(Self(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the dots, from left to right. There is at least one, and none is empty.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Sni {
    /// Reads the bytes of a `host_name` entry.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes).map(HostName::parse) {
            Ok(Ok(name)) => Self::Name(name),
            Ok(Err(NameError::Address(address))) => Self::IpLiteral(address),
            _ => Self::Unusable,
        }
    }
}

/// Checks one part between dots.
pub(crate) fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    for character in label.chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => {}
            _ if character.is_ascii() => return Err(NameError::Character(character)),
            _ => return Err(NameError::NotAscii(character)),
        }
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LabelTooLong(label.to_owned()));
    }
    Ok(())
}

fn without_dot(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

/// The address that `text` spells, also in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = without_dot(text);
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, NameError> {
        HostName::parse(text).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn a_name_is_kept_in_lower_case_without_its_trailing_dot() {
        for text in ["polling.example.com", "POLLING.Example.COM", "polling.example.com."] {
            assert_eq!(parsed(text).as_deref(), Ok("polling.example.com"));
        }
        for text in ["localhost", "_dmarc.a_b.c", "-x-.com", "xn--bcher-kva.example", "1.2.3", "010.0.0.1"] {
            assert_eq!(parsed(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        assert_eq!(parsed(""), Err(NameError::Empty));
        assert_eq!(parsed("."), Err(NameError::Empty));
        assert_eq!(parsed("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(parsed(".a"), Err(NameError::EmptyLabel));
        assert_eq!(parsed("a.."), Err(NameError::EmptyLabel));
        assert_eq!(parsed("b\u{fc}cher.de"), Err(NameError::NotAscii('\u{fc}')));
        assert_eq!(parsed("a\0b"), Err(NameError::Character('\0')));
        assert_eq!(parsed("example.com:443"), Err(NameError::Character(':')));
        assert_eq!(parsed("*.example.com"), Err(NameError::Character('*')));
        assert_eq!(parsed("10.0.0.1"), Err(NameError::Address([10, 0, 0, 1].into())));
        assert!(matches!(parsed("[2001:db8::1]"), Err(NameError::Address(IpAddr::V6(_)))));
    }

    #[test]
    fn the_length_limits_are_exact() {
        let label = "a".repeat(63);
        assert!(parsed(&label).is_ok());
        assert_eq!(parsed(&"a".repeat(64)), Err(NameError::LabelTooLong("a".repeat(64))));
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(parsed(&longest).as_deref(), Ok(longest.as_str()));
        assert!(parsed(&format!("{longest}.")).is_ok());
        assert_eq!(parsed(&format!("{longest}b")), Err(NameError::TooLong(254)));
    }

    #[test]
    fn labels_go_both_ways() {
        let name = HostName::parse("a.b.c").unwrap();
        assert_eq!(name.labels().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(name.labels().next_back(), Some("c"));
        assert_eq!(format!("{name:>7}"), "  a.b.c");
    }

    #[test]
    fn what_a_client_sends_never_breaks_the_hello() {
        assert!(matches!(Sni::from_bytes(b"A.example."), Sni::Name(name) if name.as_str() == "a.example"));
        for bytes in [&b"192.0.2.7"[..], b"192.0.2.7.", b"[192.0.2.7]"] {
            assert_eq!(Sni::from_bytes(bytes), Sni::IpLiteral([192, 0, 2, 7].into()));
        }
        for bytes in [&b"2001:db8::7"[..], b"[2001:db8::7]"] {
            assert!(matches!(Sni::from_bytes(bytes), Sni::IpLiteral(IpAddr::V6(_))));
        }
        for bytes in [&b""[..], b".", b"a\0", b"\xff", b"a..b", "\u{fc}".as_bytes(), b"a b", b"fe80::1%eth0"]
        {
            assert_eq!(Sni::from_bytes(bytes), Sni::Unusable, "{bytes:?}");
        }
        assert_eq!(Sni::from_bytes("a.".repeat(200).as_bytes()), Sni::Unusable);
    }
}
