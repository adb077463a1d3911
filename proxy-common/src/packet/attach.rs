//! How the programs are attached to interfaces.

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attach {
    /// By links where the kernel has them, else by filters.
    #[default]
    Auto,
    /// By links (tcx, Linux 6.6).
    Tcx,
    /// By filters of a `clsact`.
    Clsact,
}

impl Attach {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Tcx, Self::Clsact];

    /// The word of the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}
