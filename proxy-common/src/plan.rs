//! Which datapaths a flow may take, best first, and why each other one is left out.

use core::time::Duration;

use crate::packet::eligible::Obstacle;

/// Longer than most requests of a browser, shorter than an operator looks.
const PATIENCE: Duration = Duration::from_secs(1);

/// A way to carry the bytes of an established flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datapath {
    /// Userspace reads and writes. Always possible.
    Copy,
    /// The kernel redirects received segments into the peer's socket.
    Sockmap,
    /// The same, and what a server on this host sends goes straight into the client's socket.
    Local,
    /// Packets are translated on their way through this host; the flow has no sockets.
    Packet,
}

impl Datapath {
    /// Every datapath, best first.
    pub const ALL: [Self; 4] = [Self::Packet, Self::Local, Self::Sockmap, Self::Copy];

    /// The name in configuration, logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Sockmap => "sockmap",
            Self::Local => "local",
            Self::Packet => "packet",
        }
    }
}

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best datapath that works. Without sockets only where the host is set up for that (`[packet]`), and then first.
    #[default]
    Auto,
    /// This one where it works, else what it builds on.
    Only(Datapath),
}

/// Why a datapath is left out of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The configuration names another one.
    NotChosen,
    /// The start-up check found that this kernel or these privileges do not carry it.
    Unavailable,
    /// The server is on another host.
    Remote,
    /// It has a known disadvantage on this host, so that only upstreams whose configuration names it use it.
    ByNameOnly,
    /// A flow leaves its sockets, or not, before it is spliced or copied for good.
    Before,
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
    /// The other end of the connection to the server is no socket of this host and network namespace.
    NotCaptured,
    /// The flow cannot do without its sockets.
    Packet(Obstacle),
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
            Self::NotCaptured => "not_captured",
            Self::Packet(obstacle) => obstacle.label(),
        }
    }
}

/// What this host can do, as found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host {
    /// The sockmap programs are loaded and passed their self-test; by name on kernels that are not known to be good.
    pub sockmap: Use,
    /// The same for those of local; by name also if some servers would notice.
    pub local: Use,
    /// The programs that translate packets are loaded.
    pub packet: bool,
}

/// When a datapath may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Use {
    /// Never.
    #[default]
    Unavailable,
    /// For upstreams whose configuration names it.
    ByName,
    /// Under `auto` too.
    Always,
}

/// The datapaths to try, in order. The last one is always [`Datapath::Copy`], which refuses nothing. `near`: the server may
/// be on this host.
#[must_use]
pub fn plan(choice: Choice, host: Host, near: bool) -> Vec<Datapath> {
    Datapath::ALL.into_iter().filter(|&datapath| skip(choice, host, near, datapath).is_none()).collect()
}

/// How long a flow is copied before it is spliced: a connection that ends soon is not worth the hand-over. None: it is
/// handed over at once, or there is nothing to hand it over to.
#[must_use]
pub fn patience(choice: Choice, plan: &[Datapath]) -> Option<Duration> {
    let can_splice = plan.iter().any(|&datapath| datapath != Datapath::Copy);
    (choice == Choice::Auto && can_splice).then_some(PATIENCE)
}

/// Why `datapath` is not in the plan, or None if it is.
#[must_use]
pub fn skip(choice: Choice, host: Host, near: bool, datapath: Datapath) -> Option<Skip> {
    match (choice, datapath) {
        (_, Datapath::Copy) => None,
        (Choice::Auto, Datapath::Packet) => Some(Skip::Before),
        (Choice::Only(Datapath::Packet), Datapath::Packet) => (!host.packet).then_some(Skip::Unavailable),
        (Choice::Only(Datapath::Copy | Datapath::Packet), _)
        | (Choice::Only(_), Datapath::Packet)
        | (Choice::Only(Datapath::Sockmap), Datapath::Local) => Some(Skip::NotChosen),
        (Choice::Auto, Datapath::Local) if !near => Some(Skip::Remote),
        (Choice::Auto, Datapath::Local) if host.local != Use::Always => Some(Skip::ByNameOnly),
        (Choice::Auto, Datapath::Sockmap) if host.sockmap == Use::ByName => Some(Skip::ByNameOnly),
        (_, Datapath::Sockmap) => (host.sockmap == Use::Unavailable).then_some(Skip::Unavailable),
        (_, Datapath::Local) => (host.local == Use::Unavailable).then_some(Skip::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn host(local: Use) -> Host {
        Host { sockmap: Use::Always, local, packet: true }
    }

    #[test]
    fn auto_copies_where_splicing_is_by_name_only() {
        use Datapath::{Copy, Local, Sockmap};
        let host = Host { sockmap: Use::ByName, local: Use::ByName, packet: false };
        for near in [false, true] {
            assert_eq!(plan(Choice::Auto, host, near), [Copy]);
            assert_eq!(skip(Choice::Auto, host, near, Sockmap), Some(Skip::ByNameOnly));
        }
        assert_eq!(patience(Choice::Auto, &plan(Choice::Auto, host, false)), None);
        assert_eq!(plan(Choice::Only(Sockmap), host, false), [Sockmap, Copy]);
        assert_eq!(plan(Choice::Only(Local), host, true), [Local, Sockmap, Copy]);
    }

    #[test]
    fn auto_takes_local_only_for_near_servers_that_do_not_notice() {
        use Datapath::{Copy, Local as L, Sockmap};
        assert_eq!(plan(Choice::Auto, host(Use::Always), true), [L, Sockmap, Copy]);
        assert_eq!(plan(Choice::Auto, host(Use::Always), false), [Sockmap, Copy]);
        assert_eq!(plan(Choice::Auto, host(Use::ByName), true), [Sockmap, Copy]);
    }

    #[test]
    fn only_auto_waits_and_only_for_something() {
        let plan = |choice, host| plan(choice, host, false);
        let waits = |choice, host| patience(choice, &plan(choice, host)).is_some();
        assert!(waits(Choice::Auto, host(Use::Always)));
        assert!(!waits(Choice::Only(Datapath::Sockmap), host(Use::Always)));
        assert!(!waits(Choice::Auto, Host::default()));
    }

    #[test]
    fn what_is_named_falls_back_to_what_it_builds_on() {
        use Datapath::{Copy, Local as L, Sockmap};
        assert_eq!(plan(Choice::Only(L), host(Use::ByName), false), [L, Sockmap, Copy]);
        assert_eq!(plan(Choice::Only(L), host(Use::Unavailable), true), [Sockmap, Copy]);
        assert_eq!(plan(Choice::Only(Sockmap), host(Use::Always), true), [Sockmap, Copy]);
        assert_eq!(plan(Choice::Only(Copy), host(Use::Always), true), [Copy]);
        let none = Host::default();
        assert_eq!(plan(Choice::Only(L), none, true), [Copy]);
        assert_eq!(skip(Choice::Only(L), none, true, L), Some(Skip::Unavailable));
    }

    #[test]
    fn packet_is_taken_where_it_is_named_and_a_flow_that_cannot_be_is_copied() {
        use Datapath::{Copy, Packet, Sockmap};
        assert_eq!(plan(Choice::Only(Packet), host(Use::Always), false), [Packet, Copy]);
        assert_eq!(plan(Choice::Only(Packet), Host::default(), false), [Copy]);
        for choice in [Choice::Auto, Choice::Only(Sockmap), Choice::Only(Copy)] {
            assert!(!plan(choice, host(Use::Always), false).contains(&Packet));
        }
    }
}
