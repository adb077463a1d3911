//! What a connection opened with, or why it cannot be routed: as the record and the metrics tell it.

use super::{ClientHello, Defect, Sni};

/// What a connection opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A hello.
    Hello(ClientHello),
    /// Something that is not TLS.
    NotTls,
}

/// Why a connection cannot be routed: there is no whole hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HelloFailure {
    /// It was not there in time.
    Timeout,
    /// The client ended before.
    Eof,
    /// The client reset before.
    Reset,
    /// It breaks the protocol.
    Broken(Defect),
    /// An urgent mark is within it, which the kernel does not look past.
    UrgentMark,
    /// It is larger than what is looked at.
    TooLarge,
}

impl Opening {
    /// Metric label and log field.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Hello(ClientHello { sni: Sni::Name(_) }) => "found",
            Self::Hello(ClientHello { sni: Sni::Absent | Sni::IpLiteral(_) | Sni::Unusable }) => "no_name",
            Self::NotTls => "not_tls",
        }
    }
}

impl HelloFailure {
    /// Metric label and log field, beside those of [`Opening::label`].
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::Reset => "reset",
            Self::Broken(_) | Self::UrgentMark => "broken",
            Self::TooLarge => "too_large",
        }
    }
}
