//! What the file says about one key, and where.

/// A value and the byte offset where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// What the file says about one key.
#[derive(Debug)]
pub(super) enum Field<T> {
    Absent,
    /// It is there, and an error about it is already in the report.
    Wrong,
    Given(At<T>),
}

impl<T> Field<T> {
    pub(super) fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// A list of strings. Entries of another type are reported and left out.
pub(super) type Strings = Field<Vec<At<String>>>;

impl Strings {
    pub(super) fn items(&self) -> &[At<String>] {
        self.given().map_or(&[], |list| &list.value)
    }
}
