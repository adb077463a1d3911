//! The maps of the packet datapath.
//!
//! A flow has two entries, one for the packets of each of its ends, known by the addresses and ports that those packets bear
//! when they come in. Both outlive the daemon: whoever changes a layout here changes [`LAYOUT`], too.

mod ageing;
mod control;
mod entry;
mod handover;
mod key;

pub use ageing::{
    AGEING, DEAD_MS, MAX_SERVERS, PORTS_AT_A_TIME, SERVER_WORDS, SERVERS, Server, WATCH, watch,
};
pub use control::{Answer, Command, REQUEST_BYTES, REQUEST_KEY, Request};
pub use entry::{ENTRY_WORDS, Entry, flag, state};
pub use handover::{HANDOVER_WORDS, Handover, Socket, phase};
pub use key::{Address, KEY_BYTES, KEY_WORDS, Key, MAPPED, address_from, address_of, is_ipv4};

/// Number of the layout of [`Key`], [`Entry`], [`Handover`] and the other maps that are pinned. A daemon adopts the flows of its
/// own layout only.
pub const LAYOUT: u32 = 5;

/// Name of the map of flows: [`Key`] -> [`Entry`].
pub const FLOWS: &str = "FLOWS";
/// Name of the map of hand-overs: number -> lock and [`Handover`].
pub const HANDOVERS: &str = "HANDOVERS";
/// Name of the map of connections that are being made: cookie of the socket -> [`offer`]s that its SYN shall not make.
pub const WITHHELD: &str = "WITHHELD";
/// Name of the array whose first word is [`LAYOUT`], and whose second one says whether hand-overs are under way.
pub const STATE: &str = "STATE";
/// Name of the array of ports that packets of flows go to, one bit each.
pub const PORTS: &str = "PORTS";
/// Name of the per-CPU array of counters, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Name of the ring buffer of [`Key`]s of flows that userspace has to look at.
pub const EVENTS: &str = "EVENTS";
/// Name of the program for what comes in.
pub const INGRESS: &str = "ingress";
/// Name of the program for what goes out.
pub const EGRESS: &str = "egress";
/// Name of the program that the daemon runs with a [`Request`].
pub const CONTROL: &str = "control";

/// Words of [`PORTS`].
pub const PORT_WORDS: u32 = 1 << 10;

/// Where [`PORTS`] has a port: number of the word, and the bit in it.
#[must_use]
#[inline(always)]
pub const fn port_place(port: u16) -> (u32, u64) {
    (port as u32 >> 6, 1 << (port & 63))
}

/// Words of [`STATE`].
pub const STATE_WORDS: u32 = 2;
/// Index of the layout in [`STATE`].
pub const STATE_LAYOUT: u32 = 0;
/// Index of that in [`STATE`].
pub const STATE_HANDOVERS: u32 = 1;

/// Most flows, times two. The map takes memory for those that there are.
pub const MAX_ENTRIES: usize = 1 << 21;
/// Most hand-overs at a time.
pub const MAX_HANDOVERS: usize = 1 << 14;
/// Size of the ring buffer in bytes.
pub const EVENTS_BYTES: u32 = 1 << 18;

/// Names of the constants that hold offsets of fields of the kernel's structures, and of the structures and fields.
pub const OFFSETS: [(&str, &str, &str); 14] = [
    ("STATE_OFFSET", "sock_common", "skc_state"),
    ("RCV_NXT_OFFSET", "tcp_sock", "rcv_nxt"),
    ("COPIED_SEQ_OFFSET", "tcp_sock", "copied_seq"),
    ("BYTES_RECEIVED_OFFSET", "tcp_sock", "bytes_received"),
    ("WRITE_SEQ_OFFSET", "tcp_sock", "write_seq"),
    ("SND_UNA_OFFSET", "tcp_sock", "snd_una"),
    ("SND_WND_OFFSET", "tcp_sock", "snd_wnd"),
    ("TSOFFSET_OFFSET", "tcp_sock", "tsoffset"),
    ("OUT_OF_ORDER_OFFSET", "tcp_sock", "out_of_order_queue"),
    ("RX_OPT_OFFSET", "tcp_sock", "rx_opt"),
    ("TS_RECENT_OFFSET", "tcp_options_received", "ts_recent"),
    ("SKB_HEAD_OFFSET", "sk_buff", "head"),
    ("SKB_END_OFFSET", "sk_buff", "end"),
    ("GSO_TYPE_OFFSET", "skb_shared_info", "gso_type"),
];

/// Bits of what is withheld.
pub mod offer {
    /// Time stamps.
    pub const STAMPS: u32 = 1;
    /// Selective acknowledgements.
    pub const SACK: u32 = 2;
}

/// What the programs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Packets forwarded; one may be many segments.
    Forwarded = 0,
    /// Their bytes of payload.
    ForwardedBytes = 1,
    /// Packets whose options were walked one by one.
    Walked = 2,
    /// Packets of a flow that could not be translated, and were dropped.
    Untranslatable = 3,
    /// Packets whose time to live was over.
    Expired = 4,
    /// Errors of the network (ICMP) that were translated.
    Errors = 5,
    /// Packets that a socket got a copy of during a hand-over.
    Copied = 6,
    /// Packets of draining sockets whose acknowledgement was brought up to date.
    Refreshed = 7,
    /// Packets that were not believed, or their flags.
    Invalid = 8,
    /// Packets dropped since their flow was about to get sockets.
    Held = 9,
    /// Events that found no room.
    LostEvents = 10,
    /// Packets dropped since nothing leads to where they go.
    NoRoute = 11,
    /// Ways of entries that have changed.
    Moved = 12,
    /// Flows that were forgotten while no daemon ran.
    Aged = 13,
    /// Packets that were too large for the interface that they were to go out by, and whose senders were told.
    TooBig = 14,
    /// Packets that came past the program, and whose answer by the stack, a reset, was dropped.
    Missed = 15,
}

/// Number of [`Counter`]s, with room for those of later versions, which find this map pinned.
pub const COUNTER_COUNT: usize = 32;
