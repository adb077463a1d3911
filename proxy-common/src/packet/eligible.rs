//! Whether a flow can do without its sockets, and when that is worth the hand-over.

use core::time::Duration;

/// Options that both ends must have agreed on alike (`tcpi_options` in `include/uapi/linux/tcp.h`): time stamps, selective
/// acknowledgements, and ECN. The shift of windows is translated.
const ALIKE: u8 = STAMPS | SACK | ECN;
const STAMPS: u8 = 1;
const SACK: u8 = 2;
const ECN: u8 = 8;
/// Data in the SYN, and time stamps in microseconds: not known to the programs.
const UNKNOWN: u8 = 32 | 64;

/// Bytes of an IP and a TCP header without options.
const HEADERS: [u32; 2] = [40, 60];

const ESTABLISHED: u8 = 1;

/// What is to be known of one leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leg {
    /// TCP state.
    pub state: u8,
    /// `tcpi_options`.
    pub options: u8,
    /// Shift of the windows that the peer announces.
    pub peer_scale: u8,
    /// Shift of those that we do.
    pub own_scale: u8,
    /// The largest segment that the peer may send us.
    pub most_received: u32,
    /// The largest packet that the way to the peer takes.
    pub path: u32,
    /// Both of its addresses are IPv6.
    pub is_ipv6: bool,
    /// The peer is on this host.
    pub is_here: bool,
}

/// Why a flow keeps its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// A stream has ended already.
    HalfClosed,
    /// A peer is on this host: no packet leaves it.
    SameHost,
    /// One leg is IPv4, the other IPv6.
    Families,
    /// The legs do not have the same TCP options.
    Options,
    /// One end may send packets that are too large for the way to the other.
    TooLarge,
    /// An interface on the way is no Ethernet, or does not take the programs.
    Device,
    /// An interface on the way joins packets that come in (large receive offload): they cannot be divided again.
    LargeReceive,
    /// No byte has been carried yet: the server may still wait for the last segment of its handshake, which only our socket repeats.
    Silent,
    /// The flow's packets do not come by with the addresses of its sockets.
    Unseen,
    /// The connection to the server does not have a port of the range.
    Port,
    /// More is on its way to a slow reader than its window takes, again and again.
    Backlog,
    /// One end has so small a window that the other one, which counts in larger steps, cannot be told of it.
    Window,
    /// The maps have no room.
    MapFull,
    /// The system refused something.
    Refused,
}

impl Obstacle {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::HalfClosed,
        Self::SameHost,
        Self::Families,
        Self::Options,
        Self::TooLarge,
        Self::Device,
        Self::LargeReceive,
        Self::Silent,
        Self::Unseen,
        Self::Port,
        Self::Backlog,
        Self::Window,
        Self::MapFull,
        Self::Refused,
    ];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::HalfClosed => "half_closed",
            Self::SameHost => "same_host",
            Self::Families => "address_families",
            Self::Options => "tcp_options",
            Self::TooLarge => "segment_size",
            Self::Device => "device",
            Self::LargeReceive => "large_receive",
            Self::Silent => "silent",
            Self::Unseen => "unseen",
            Self::Port => "no_port",
            Self::Backlog => "backlog",
            Self::Window => "small_window",
            Self::MapFull => "map_full",
            Self::Refused => "kernel_refused",
        }
    }

    /// For operators: what it is, and the way out.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::HalfClosed => "one side has closed its stream",
            Self::SameHost => "the server or the client is on this host; datapath = \"local\" is for that",
            Self::Families => {
                "one side uses IPv4, the other IPv6; give the server an address of the clients' family"
            }
            Self::Options => {
                "the sides negotiated different TCP options, most often time stamps; set net.ipv4.tcp_timestamps=0 on this host"
            }
            Self::TooLarge => {
                "one side may send larger packets than the path to the other allows; later clients of this listener are told to send smaller ones"
            }
            Self::Device => {
                "an interface on the path is not Ethernet, or tc programs cannot be attached to it"
            }
            Self::LargeReceive => {
                "an interface on the path joins packets in hardware (LRO); run `ethtool -K INTERFACE lro off`; tried again later"
            }
            Self::Silent => {
                "no byte has been forwarded yet; the connection is offloaded soon after the first one"
            }
            Self::Unseen => {
                "no packet with the addresses of the sockets was seen: NAT on this host changes them, or a tc or XDP program gets them first; tried again later"
            }
            Self::Port => {
                "all ports for connections to this server are in use; widen ports in [packet], or add addresses to sources"
            }
            Self::Backlog => "one side reads too slowly; tried again later",
            Self::Window => "one side has a very small receive window; tried again later",
            Self::MapFull => "the map of offloaded connections is full; tried again later",
            Self::Refused => "a socket refused an option or a query; the log at level debug says which",
        }
    }

    /// Whether the flow may be free of it later.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(
            self,
            Self::LargeReceive
                | Self::Silent
                | Self::Backlog
                | Self::Window
                | Self::Unseen
                | Self::MapFull
                | Self::TooLarge
        )
    }
}

/// Whether a flow with these legs can do without sockets.
///
/// # Errors
/// Why not.
pub fn check([client, server]: [&Leg; 2]) -> Result<(), Obstacle> {
    if client.state != ESTABLISHED || server.state != ESTABLISHED {
        return Err(Obstacle::HalfClosed);
    }
    if client.is_here || server.is_here {
        return Err(Obstacle::SameHost);
    }
    if client.is_ipv6 != server.is_ipv6 {
        return Err(Obstacle::Families);
    }
    let options = client.options | server.options;
    if client.options & ALIKE != server.options & ALIKE || options & UNKNOWN != 0 {
        return Err(Obstacle::Options);
    }
    let [ipv4, ipv6] = HEADERS;
    let headers = if client.is_ipv6 { ipv6 } else { ipv4 };
    // What an end is told to send at most leaves room for its options, as long as both have the same.
    let fits = |from: &Leg, to: &Leg| from.most_received.saturating_add(headers) <= to.path;
    if !fits(client, server) || !fits(server, client) {
        return Err(Obstacle::TooLarge);
    }
    Ok(())
}

/// The largest segment that an end may be told to send, so that it fits on a way to the other end that takes packets of `path`
/// bytes.
#[must_use]
pub const fn most_for(path: u32, is_ipv6: bool) -> u32 {
    let [ipv4, ipv6] = HEADERS;
    path.saturating_sub(if is_ipv6 { ipv6 } else { ipv4 })
}

/// Steps of the other end's scale that a window must be open by. What is below one step cannot be said: if it is rounded up,
/// its owner drops what is sent beyond it (Linux 6.17 does, as a whole), and if it is rounded down, it is closed.
const STEPS: u32 = 8;

/// Whether windows that come in with a shift of `scale_in`, and are `open` bytes now, can be told to an end that believes in
/// a shift of `scale_out`.
#[must_use]
pub const fn can_tell(open: u32, scale_in: u8, scale_out: u8) -> bool {
    scale_out <= scale_in || open >> (scale_out & 15) >= STEPS
}

/// When a hand-over is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Once a flow is so old,
    pub age: Duration,
    /// or has carried so many bytes.
    pub bytes: u64,
}

/// First and longest pause after an obstacle that may pass.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Policy {
    /// How long until the time of a flow of this age has come, if it does not turn out to be a bulky one before. None: it has come.
    #[must_use]
    pub fn wait(&self, age: Duration, bytes: u64) -> Option<Duration> {
        let left = self.age.saturating_sub(age);
        (!left.is_zero() && bytes < self.bytes).then_some(left)
    }
}

/// How long to wait after so many tries in vain.
#[must_use]
pub fn retry(tries: u32) -> Duration {
    RETRY_MIN.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn leg() -> Leg {
        Leg { state: ESTABLISHED, options: 7, most_received: 1460, path: 1500, ..Leg::default() }
    }

    #[test]
    fn equal_legs_pass_and_each_difference_has_its_name() {
        assert_eq!(check([&leg(), &leg()]), Ok(()));
        let cases = [
            (Leg { state: 8, ..leg() }, Obstacle::HalfClosed),
            (Leg { is_here: true, ..leg() }, Obstacle::SameHost),
            (Leg { is_ipv6: true, ..leg() }, Obstacle::Families),
            (Leg { options: 6, ..leg() }, Obstacle::Options),
            (Leg { options: 5, ..leg() }, Obstacle::Options),
            (Leg { options: 15, ..leg() }, Obstacle::Options),
            (Leg { options: 7 | 64, ..leg() }, Obstacle::Options),
            (Leg { most_received: 8960, ..leg() }, Obstacle::TooLarge),
            (Leg { path: 1400, ..leg() }, Obstacle::TooLarge),
        ];
        for (other, obstacle) in cases {
            assert_eq!(check([&leg(), &other]), Err(obstacle), "{other:?}");
            assert_eq!(check([&other, &leg()]), Err(obstacle), "{other:?}");
        }
        let scaled = Leg { options: 3, peer_scale: 0, ..leg() };
        assert_eq!(check([&leg(), &scaled]), Ok(()), "windows are translated");
        let six = Leg { is_ipv6: true, most_received: 1440, ..leg() };
        assert_eq!(check([&six, &six]), Ok(()));
        let six = Leg { most_received: 1460, ..six };
        assert_eq!(check([&six, &six]), Err(Obstacle::TooLarge));
        let jumbo = Leg { most_received: most_for(1400, false), path: 9000, ..leg() };
        let narrow = Leg { most_received: most_for(1400, false), path: 1400, ..leg() };
        assert_eq!(check([&jumbo, &narrow]), Ok(()), "told to send less than its own way takes");
        assert_eq!((most_for(1500, true), most_for(20, true)), (1440, 0));
    }

    #[test]
    fn every_obstacle_has_a_label_and_a_text_of_its_own() {
        let labels: HashSet<_> = Obstacle::ALL.map(Obstacle::label).into();
        let texts: HashSet<_> = Obstacle::ALL.map(Obstacle::text).into();
        assert_eq!((labels.len(), texts.len()), (Obstacle::ALL.len(), Obstacle::ALL.len()));
    }

    #[test]
    fn a_window_is_told_in_equal_or_finer_steps_or_if_it_is_wide() {
        assert!(can_tell(0, 7, 7) && can_tell(1, 8, 7));
        assert!(can_tell(8 << 10, 0, 10) && !can_tell((8 << 10) - 1, 0, 10));
    }

    #[test]
    fn a_flow_waits_for_its_age_or_its_bytes() {
        let policy = Policy { age: Duration::from_secs(1), bytes: 100 };
        assert_eq!(policy.wait(Duration::ZERO, 99), Some(policy.age));
        assert_eq!(policy.wait(Duration::from_millis(980), 0), Some(Duration::from_millis(20)));
        assert_eq!(policy.wait(Duration::from_secs(1), 0), None);
        assert_eq!(policy.wait(Duration::ZERO, 100), None);
        assert_eq!([retry(0), retry(2), retry(40)], [RETRY_MIN, RETRY_MIN * 4, RETRY_MAX]);
    }
}
