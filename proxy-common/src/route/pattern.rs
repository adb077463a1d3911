//! Host-name patterns.

use std::cmp::Reverse;
use std::fmt;
use std::net::Ipv4Addr;

use crate::hello::{HostName, NameError, check_label};

/// Stands for exactly one label.
const ONE: &str = "*";

/// Stands for one or more labels.
const MANY: &str = "**";

/// The longest pattern in bytes: as long as a host name may be.
const MAX_PATTERN: usize = 253;

/// A host name in which whole labels may be wildcards: `*` is one label, `**` is one or more.
///
/// Case and one trailing dot do not count, neither in matching nor when two patterns are compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Exact(HostName),
    /// Lower case, without a trailing dot, with at most one `**`.
    Wild(Box<str>),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.what(), self.remedy())]
pub enum PatternError {
    /// Without its wildcards it would be no host name.
    Name(#[from] NameError),
    /// A wildcard that is only a part of a label, such as `a*`.
    PartOfLabel(String),
    /// More than one `**`.
    TwoDeep,
    /// An IPv4 address with wildcards in it.
    AddressRange(String),
}

impl PatternError {
    /// What is wrong.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Name(error) => error.what(),
            Self::PartOfLabel(part) => format!("the part \"{part}\" mixes a wildcard with other characters"),
            Self::TwoDeep => "there is more than one '**'".to_owned(),
            Self::AddressRange(text) => {
                format!(
                    "\"{text}\" is an address with wildcards, and clients send no server name for an address"
                )
            }
        }
    }

    /// What to do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Name(error) => error.remedy(),
            Self::PartOfLabel(_) => "'*' stands for one whole part between dots and '**' for one or more",
            Self::TwoDeep => "keep one and write '*' for each other part",
            Self::AddressRange(_) => "to match clients by network, set `source`",
        }
    }
}

impl Pattern {
    /// Reads a pattern such as `polling.example.com`, `*.example.com`, `polling.**` or `**`.
    ///
    /// # Errors
    ///
    /// What is wrong with `text`, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.contains('*') {
            return Ok(Self(Kind::Exact(HostName::parse(text)?)));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > MAX_PATTERN {
            return Err(NameError::TooLong(text.len()).into());
        }
        let mut deep = 0;
        for label in text.split('.') {
            match label {
                ONE => {}
                MANY => deep += 1,
                _ if label.contains('*') => return Err(PatternError::PartOfLabel(label.to_owned())),
                _ => check_label(label)?,
            }
        }
        if deep > 1 {
            return Err(PatternError::TwoDeep);
        }
        if is_address_range(text) {
            return Err(PatternError::AddressRange(text.to_owned()));
        }
        Ok(Self(Kind::Wild(text.to_ascii_lowercase().into_boxed_str())))
    }

    /// Whether this pattern stands for `name`.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        match &self.0 {
            Kind::Exact(exact) => exact == name,
            Kind::Wild(pattern) => matches_wild(pattern, name),
        }
    }

    /// Whether it stands for one name only.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self.0, Kind::Exact(_))
    }

    /// The one name that it stands for.
    pub(super) const fn exact(&self) -> Option<&HostName> {
        match &self.0 {
            Kind::Exact(name) => Some(name),
            Kind::Wild(_) => None,
        }
    }

    /// Orders patterns with wildcards, the most specific first: more literal labels, then without `**`.
    pub(super) fn rank(&self) -> (Reverse<usize>, bool) {
        let labels = || self.as_str().split('.');
        let literal = labels().filter(|label| !label.contains('*')).count();
        (Reverse(literal), labels().any(|label| label == MANY))
    }

    fn as_str(&self) -> &str {
        match &self.0 {
            Kind::Exact(name) => name.as_str(),
            Kind::Wild(pattern) => pattern,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Goes from the left up to `**`, then from the right back to it; what is left in between must not be empty.
fn matches_wild(pattern: &str, name: &HostName) -> bool {
    let same = |part: &str, label: Option<&str>| label.is_some_and(|label| part == ONE || part == label);
    let mut parts = pattern.split('.');
    let mut labels = name.labels();
    loop {
        match parts.next() {
            None => return labels.next().is_none(),
            Some(MANY) => break,
            Some(part) if same(part, labels.next()) => {}
            Some(_) => return false,
        }
    }
    while let Some(part) = parts.next_back() {
        if !same(part, labels.next_back()) {
            return false;
        }
    }
    labels.next().is_some()
}

/// Whether the pattern is an IPv4 address in which some of the numbers are wildcards, such as `10.0.*.*`.
fn is_address_range(pattern: &str) -> bool {
    let has_number = pattern.contains(|character: char| character.is_ascii_digit());
    has_number && pattern.replace(ONE, "0").parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&HostName::parse(name).unwrap())
    }

    #[test]
    fn one_star_is_one_label() {
        assert!(matches("*.example.com", "a.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "a.b.example.com"));
        assert!(matches("a.*.b", "a.x.b"));
        assert!(!matches("a.*.b", "a.b"));
        assert!(matches("*", "localhost"));
        assert!(!matches("*", "a.b"));
    }

    #[test]
    fn two_stars_are_one_or_more_labels() {
        assert!(matches("polling.**", "polling.example.com"));
        assert!(!matches("polling.**", "polling"));
        assert!(!matches("polling.**", "xpolling.example.com"));
        assert!(matches("**.example.com", "a.b.example.com"));
        assert!(!matches("**.example.com", "example.com"));
        assert!(matches("a.**.b", "a.x.y.b"));
        assert!(!matches("a.**.b", "a.b"));
        assert!(!matches("a.**.a", "a"));
        assert!(matches("*.**", "a.b"));
        assert!(matches("**", "localhost") && matches("**", "a.b.c"));
    }

    #[test]
    fn case_and_one_trailing_dot_do_not_count() {
        assert!(matches("Polling.Example.COM.", "polling.example.com"));
        assert!(matches("POLLING.**.", "Polling.Example.com."));
        assert_eq!(Pattern::parse("*.A."), Pattern::parse("*.a"));
        assert_eq!(Pattern::parse("*.A.").unwrap().to_string(), "*.a");
    }

    #[test]
    fn only_a_pattern_without_wildcards_is_exact() {
        assert!(Pattern::parse("a.b").unwrap().is_exact());
        assert!(!Pattern::parse("*.b").unwrap().is_exact());
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_way_out() {
        let error = |text: &str| Pattern::parse(text).unwrap_err();
        for text in ["a*", "a*.b", "***", "a.**b"] {
            assert!(matches!(error(text), PatternError::PartOfLabel(_)), "{text}");
        }
        assert_eq!(error("**.a.**"), PatternError::TwoDeep);
        assert_eq!(error("*..a"), PatternError::Name(NameError::EmptyLabel));
        assert_eq!(error("*.."), PatternError::Name(NameError::EmptyLabel));
        assert_eq!(error(""), PatternError::Name(NameError::Empty));
        assert_eq!(error("10.0.*.*"), PatternError::AddressRange("10.0.*.*".to_owned()));
        assert_eq!(error("10.0.0.1"), PatternError::Name(NameError::Address([10, 0, 0, 1].into())));
        assert!(matches!(
            error(&format!("*.{}", "a.".repeat(130))),
            PatternError::Name(NameError::TooLong(_))
        ));
        assert!(Pattern::parse("*.*.*.*").is_ok());
        let message = error("*.b\u{fc}cher.de").to_string();
        assert!(message.contains("xn--"), "{message}");
        let message = error("https://polling.**").to_string();
        assert!(message.contains("without scheme"), "{message}");
    }
}
