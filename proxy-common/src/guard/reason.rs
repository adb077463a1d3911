//! Why a packet passed or was dropped: a closed set, each with a counter of its own.

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Not TCP to one of the listeners.
    Other = 0,
    /// From a source on the allow list.
    Allowed = 1,
    /// Of a connection, or at least not the first of one.
    Segment = 2,
    /// The first of a connection.
    Syn = 3,
    /// From a source on the deny list.
    Denied = 4,
    /// From a source that is banned for a while.
    Banned = 5,
    /// A header that is shorter than TCP's.
    Truncated = 6,
    /// A data offset that no header can have.
    Offset = 7,
    /// Flags that do not go together.
    Flags = 8,
    /// A fragment that ends within the header, which hides the flags.
    Fragment = 9,
    /// The source opens connections faster than its rate.
    SourceRate = 10,
    /// All sources together open connections faster than the ceiling.
    Ceiling = 11,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Other,
        Self::Allowed,
        Self::Segment,
        Self::Syn,
        Self::Denied,
        Self::Banned,
        Self::Truncated,
        Self::Offset,
        Self::Flags,
        Self::Fragment,
        Self::SourceRate,
        Self::Ceiling,
    ];

    /// Whether such a packet is dropped.
    #[must_use]
    pub const fn drops(self) -> bool {
        self as u32 >= Self::Denied as u32
    }

    /// The word of metrics and of `snisplice guard stats`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Allowed => "allowed",
            Self::Segment => "segment",
            Self::Syn => "syn",
            Self::Denied => "denied",
            Self::Banned => "banned",
            Self::Truncated => "truncated",
            Self::Offset => "offset",
            Self::Flags => "flags",
            Self::Fragment => "fragment",
            Self::SourceRate => "source_rate",
            Self::Ceiling => "ceiling",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_in_the_order_of_their_numbers() {
        let numbers = Reason::ALL.map(|reason| reason as usize);
        assert_eq!(numbers, core::array::from_fn(|number| number));
        assert_eq!(Reason::ALL.iter().filter(|reason| reason.drops()).count(), 8);
    }
}
