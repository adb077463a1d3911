//! The compiled configuration: what the front reads for each connection.
//!
//! A snapshot is immutable and shared. A connection keeps the one that it was accepted under.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::guard::Policy;
use proxy_common::hello::MaxHello;
use proxy_common::packet::attach::Attach;
use proxy_common::plan::{Choice, Datapath};
use proxy_common::route::Table;

use super::server::Server;
use super::upstreams::Endpoint;

/// One checked and compiled configuration.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts up from 1 with each snapshot that the daemon gets. 0: it has not been put into use.
    pub(crate) epoch: u64,
    /// At least one; names are unique.
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// Where a server name and a source go.
    pub(crate) routes: Table<Arc<Upstream>>,
    /// Names are unique.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) admin: Admin,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// None: nothing is attached to any interface.
    pub(crate) guard: Option<Guard>,
    pub(crate) packet: Packet,
}

impl Snapshot {
    /// The listener with this name.
    pub(crate) fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| *listener.name == *name)
    }

    /// Bits of an IPv4 and of an IPv6 address that make a source: of IPv6 as many as one customer has.
    pub(crate) fn source_bits(&self) -> [u8; 2] {
        self.guard.as_ref().map_or([32, 64], |guard| guard.source_bits)
    }

    /// Whether a client is not banned while it has a flow to the upstream with this name. One that is not known any more, or never
    /// was, may have been such a one.
    pub(crate) fn protects(&self, upstream: Option<&str>) -> bool {
        let known = self.upstreams.iter().find(|known| Some(&*known.name) == upstream);
        self.guard.as_ref().is_some_and(|guard| known.is_none_or(|known| guard.protects(&known.name)))
    }

    /// Whether an upstream leaves the choice to the daemon.
    pub(crate) fn has_auto(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.datapath == Choice::Auto)
    }

    /// Flows of these upstreams do not leave their sockets, whatever the configuration says. Says whether they would have.
    pub(crate) fn forbid_auto_to_offload(&mut self) -> bool {
        let would = std::mem::take(&mut self.packet.for_auto) && self.has_auto();
        self.packet.is_forbidden_to_auto = would;
        would
    }

    /// Whether flows of any upstream may leave their sockets.
    pub(crate) fn wants_packet(&self) -> bool {
        self.upstreams.iter().any(|upstream| self.may_leave(upstream.datapath))
    }

    /// Whether flows of an upstream with this datapath may leave their sockets.
    pub(crate) fn may_leave(&self, choice: Choice) -> bool {
        match choice {
            Choice::Only(datapath) => datapath == Datapath::Packet,
            Choice::Auto => self.packet.for_auto,
        }
    }
}

/// `[[listen]]`: one name for one or more addresses.
#[derive(Debug, PartialEq)]
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    /// Not empty. An unspecified IPv6 address is bound dual-stack.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Every connection goes there, and no hello is awaited. None: the routes decide.
    pub(crate) to: Option<Arc<Upstream>>,
}

/// `[[upstream]]`: servers in order of preference.
#[derive(Debug, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// Not empty; each connection goes to the first that accepts.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The datapath that the operator asks for.
    pub(crate) datapath: Choice,
    /// How long a connection is held, with its hello unread, while no server accepts. Zero: one pass over the servers.
    pub(crate) hold: Duration,
}

impl Upstream {
    /// Its servers as they are configured, in order of preference.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.endpoints.iter().map(|endpoint| endpoint.server())
    }
}

/// `[admin]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Admin {
    /// Unix socket, mode 0660. None: not offered.
    pub(crate) socket: Option<PathBuf>,
    /// Read-only HTTP. None: not offered.
    pub(crate) http: Option<SocketAddr>,
    /// Whether it may name clients.
    pub(crate) http_clients: bool,
    /// Names that it may be asked by, beside localhost and IP addresses.
    pub(crate) hosts: Vec<String>,
    /// Datapaths without which the daemon does not call itself ready.
    pub(crate) ready_requires: Vec<Datapath>,
}

/// `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes in the buffers of all TCP sockets of the host, above which flows get less credit. None: as the kernel has it.
    pub(crate) tcp_memory: Option<u64>,
    /// Connections that one source may have at a time. 0: any number.
    pub(crate) source_connections: u32,
    /// The longest hello that is looked at.
    pub(crate) hello_size: MaxHello,
}

/// `[guard]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Names of interfaces, which need not be there yet.
    pub(crate) interfaces: Vec<Arc<str>>,
    /// None: native where the driver has it, else generic.
    pub(crate) native: Option<bool>,
    pub(crate) dry_run: bool,
    pub(crate) allow: Vec<IpNet>,
    pub(crate) deny: Vec<IpNet>,
    /// A file with more networks to deny.
    pub(crate) deny_file: Option<PathBuf>,
    /// How fast one source may open connections, and how many at once. 0: no limit.
    pub(crate) syn_rate: u32,
    pub(crate) syn_burst: u32,
    /// How fast all of them may. 0: no limit.
    pub(crate) syn_ceiling: u32,
    /// Per cent of that which is kept for sources with live connections.
    pub(crate) syn_reserve: u32,
    /// Bits of an IPv4 and of an IPv6 address that make a source.
    pub(crate) source_bits: [u8; 2],
    /// Sources whose rate is watched at a time.
    pub(crate) sources: u32,
    pub(crate) bans: Policy,
    /// Upstreams whose clients are never banned while they have a connection. None: all of them.
    pub(crate) protect: Option<Vec<Arc<str>>>,
    /// Folder of a BPF file system where attachments outlive the daemon.
    pub(crate) pin: Option<PathBuf>,
}

impl Guard {
    /// Whether clients of an upstream are never banned while they have a flow to it.
    pub(crate) fn protects(&self, upstream: &str) -> bool {
        self.protect.as_ref().is_none_or(|all| all.iter().any(|name| **name == *upstream))
    }
}

/// `[packet]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    /// How old a flow is when it leaves its sockets, unless it is a bulky one.
    pub(crate) after: Duration,
    /// Local ports of connections to servers of upstreams whose datapath it is.
    pub(crate) ports: RangeInclusive<u16>,
    /// Local addresses of these connections, which take turns. An unspecified one is what the route gives.
    pub(crate) sources: Vec<IpAddr>,
    /// Folder in a BPF file system.
    pub(crate) pins: PathBuf,
    /// File for what the maps do not know of flows that have left their sockets.
    pub(crate) journal: PathBuf,
    /// How programs are attached.
    pub(crate) attach: Attach,
    /// Flows of upstreams that leave the choice to the daemon may leave their sockets, too: the section is there.
    pub(crate) for_auto: bool,
    /// They would, but the kernel is not known to be good for that.
    pub(crate) is_forbidden_to_auto: bool,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(1),
            ports: 61_000..=65_535,
            sources: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            pins: PathBuf::from("/sys/fs/bpf/snisplice"),
            journal: PathBuf::from("/run/snisplice/packet.journal"),
            attach: Attach::Auto,
            for_auto: false,
            is_forbidden_to_auto: false,
        }
    }
}

/// `[timeouts]`: all bounds on waiting, none of them zero but `idle`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From accept to a verdict on the hello.
    pub(crate) hello: Duration,
    /// One attempt at one address of a server.
    pub(crate) connect: Duration,
    /// Without a byte either way, once one side has ended.
    pub(crate) half_close: Duration,
    /// Without a byte either way, until an established flow is closed. Zero: for ever.
    pub(crate) idle: Duration,
    /// From SIGTERM until the flows that are left are closed.
    pub(crate) drain: Duration,
    /// Without any sign of life of a peer that owes one, until it is given up.
    pub(crate) keepalive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            half_close: Duration::from_secs(60),
            idle: Duration::ZERO,
            drain: Duration::from_secs(30),
            keepalive: Duration::from_secs(65),
        }
    }
}
