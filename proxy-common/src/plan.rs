//! Which datapaths a flow may take, best first, and why each other one is left out.

/// A way to carry the bytes of an established flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datapath {
    /// Userspace reads and writes. Always possible.
    Copy,
    /// The kernel redirects received segments into the peer's socket.
    Sockmap,
}

impl Datapath {
    /// Every datapath, best first.
    pub const ALL: [Self; 2] = [Self::Sockmap, Self::Copy];

    /// The name in configuration, logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Sockmap => "sockmap",
        }
    }
}

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best datapath that works.
    #[default]
    Auto,
    /// This one where it works, else copy.
    Only(Datapath),
}

/// Why a datapath is left out of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The configuration names another one.
    NotChosen,
    /// The start-up check found that this kernel or these privileges do not carry it.
    Unavailable,
}

/// Why a datapath did not carry a flow that it was meant to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// It does not work on this host, or no longer.
    Unavailable,
    /// A peer had ended its stream already.
    HalfClosed,
    /// The kernel's map has no room.
    MapFull,
    /// A socket refused an option or a question.
    SocketError,
    /// The kernel refused for another reason: another program has the socket, for one.
    KernelRefused,
}

impl Fallback {
    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::HalfClosed => "half_closed",
            Self::MapFull => "map_full",
            Self::SocketError => "socket_error",
            Self::KernelRefused => "kernel_refused",
        }
    }
}

/// What this host can do, as found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// The sockmap programs are loaded and passed their self-test.
    pub sockmap: bool,
}

/// The datapaths to try, in order. The last one is always [`Datapath::Copy`], which refuses nothing.
#[must_use]
pub fn plan(choice: Choice, host: Host) -> Vec<Datapath> {
    Datapath::ALL.into_iter().filter(|&datapath| skip(choice, host, datapath).is_none()).collect()
}

/// Why `datapath` is not in the plan, or None if it is.
#[must_use]
pub fn skip(choice: Choice, host: Host, datapath: Datapath) -> Option<Skip> {
    match (choice, datapath) {
        (_, Datapath::Copy) => None,
        (Choice::Only(other), _) if other != datapath => Some(Skip::NotChosen),
        (_, Datapath::Sockmap) if !host.sockmap => Some(Skip::Unavailable),
        (_, Datapath::Sockmap) => None,
    }
}
