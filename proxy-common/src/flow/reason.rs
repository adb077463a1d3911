//! Why a flow ended: closed sets that serve as metric labels and log fields.

use crate::hello::HelloFailure;

/// One of the two ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that connected to us.
    Client,
    /// The one that we connected to.
    Upstream,
}

impl Side {
    /// Both, in the order in which arrays of two are kept.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// Index into an array of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Upstream => 1,
        }
    }

    /// The opposite one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    /// The word in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

/// Why no upstream connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// The server answered with a reset: nothing listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No route to the server.
    Unreachable,
    /// The server's name has no address.
    Resolve,
    /// Anything else, such as no free local port.
    Other,
}

impl ConnectFailure {
    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Resolve => "resolve",
            Self::Other => "other",
        }
    }
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Both sides sent their end, and each got the other's.
    Eof,
    /// A side sent a reset.
    Reset(Side),
    /// A side stopped answering keepalive probes or retransmissions.
    PeerTimeout(Side),
    /// There is no hello that can be routed.
    Hello(HelloFailure),
    /// No route matches, and none is the default.
    NoRoute,
    /// The client is a connection of ours to an upstream server, which has come back to us.
    Loop,
    /// No upstream server took the connection.
    Connect(ConnectFailure),
    /// The client left while we were connecting.
    ClientGone,
    /// The kernel no longer carries the flow, though nobody of ours told it so: bytes may be gone.
    KernelLost,
    /// Somebody else has taken away what carried the flow, which had no sockets: its peers were reset by the kernel, or are now.
    DatapathLost,
    /// One side had ended, and no byte moved for too long.
    HalfCloseTimeout,
    /// No byte moved for as long as the configuration allows.
    IdleTimeout,
    /// The daemon is stopping.
    Drain,
    /// An operator has ordered it.
    Killed,
    /// The operating system refused something that should not fail; the log has the error.
    Internal,
}

impl Reason {
    /// Metric label and log field.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Reset(Side::Client) => "client_reset",
            Self::Reset(Side::Upstream) => "upstream_reset",
            Self::PeerTimeout(Side::Client) => "client_timeout",
            Self::PeerTimeout(Side::Upstream) => "upstream_timeout",
            Self::Hello(HelloFailure::Timeout) => "hello_timeout",
            Self::Hello(HelloFailure::Eof) => "hello_eof",
            Self::Hello(HelloFailure::Reset) => "hello_reset",
            Self::Hello(HelloFailure::Broken(_) | HelloFailure::UrgentMark) => "hello_broken",
            Self::Hello(HelloFailure::TooLarge) => "hello_too_large",
            Self::NoRoute => "no_route",
            Self::Connect(ConnectFailure::Refused) => "connect_refused",
            Self::Connect(ConnectFailure::Timeout) => "connect_timeout",
            Self::Connect(ConnectFailure::Unreachable) => "connect_unreachable",
            Self::Connect(ConnectFailure::Resolve) => "connect_resolve",
            Self::Connect(ConnectFailure::Other) => "connect_failed",
            Self::Loop => "loop",
            Self::ClientGone => "client_gone",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::KernelLost => "kernel_lost",
            Self::DatapathLost => "datapath_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::Drain => "drain",
            Self::Killed => "killed",
            Self::Internal => "internal",
        }
    }

    /// The side that brought it about, where one did.
    #[must_use]
    pub const fn side(self) -> Option<Side> {
        match self {
            Self::Reset(side) | Self::PeerTimeout(side) => Some(side),
            Self::Hello(_) | Self::ClientGone => Some(Side::Client),
            Self::Connect(_) => Some(Side::Upstream),
            Self::Eof
            | Self::NoRoute
            | Self::Loop
            | Self::KernelLost
            | Self::DatapathLost
            | Self::HalfCloseTimeout
            | Self::IdleTimeout
            | Self::Drain
            | Self::Killed
            | Self::Internal => None,
        }
    }
}

/// How an established flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// The side that brought it about, as far as one did.
    pub side: Option<Side>,
}

impl End {
    /// A reason that names a side is never put down to the other one: `first`, the side that ended its stream first,
    /// counts for reasons that name none.
    #[must_use]
    pub const fn new(reason: Reason, first: Option<Side>) -> Self {
        let side = match reason.side() {
            None => first,
            named => named,
        };
        Self { reason, side }
    }
}
