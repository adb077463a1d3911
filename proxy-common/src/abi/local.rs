//! What the local datapath has beyond the sockmap one: the upstream server is on this host, and what it sends during a
//! long download goes straight into the client's socket.
//!
//! The daemon asks for that by running a program with a [`Request`], and ends it itself: nothing is attached to the host.
//!
//! Kernels before 7.3 let a classifier put a socket into a map of sockets: [`REACH`] finds the server's socket and captures it. Later ones
//! let only iterators do so, and few other types, none of which can look up a connection. There [`MARK`] finds the socket and marks it,
//! and [`SEIZE`], an iterator over the marked sockets, puts it into the map.

/// Name of the map that holds the servers' sockets: cookie of our socket to the server -> the server's own socket
/// (`BPF_MAP_TYPE_SOCKHASH`). What is sent on a socket in it passes the program [`BYPASS`].
pub const BACKENDS: &str = "BACKENDS";
/// Name of the map of [`Bypass`]es: address of the server's socket in the kernel -> where its bytes go.
pub const BYPASSES: &str = "BYPASSES";
/// Name of the map that finds what is to be undone: cookie of our socket to the server -> address of the server's socket.
pub const CAPTURED: &str = "CAPTURED";
/// Name of the program that sends past the loopback connection.
pub const BYPASS: &str = "bypass";
/// Name of the program that the daemon runs with a [`Request`].
pub const REACH: &str = "reach";
/// Name of the same for kernels whose classifiers may not change maps of sockets.
pub const MARK: &str = "mark";
/// Name of the map of [`Mark`]s, one for each marked socket (`BPF_MAP_TYPE_SK_STORAGE`).
pub const MARKS: &str = "MARKS";
/// Name of the iterator over [`MARKS`].
pub const SEIZE: &str = "seize";
/// What it iterates over, as the kernel names it.
pub const SEIZE_KIND: &str = "bpf_sk_storage_map";

/// Names of the further constants that hold offsets of fields, and of the structures and fields.
pub const OFFSETS: [(&str, &str, &str); 2] =
    [("RCV_NXT_OFFSET", "tcp_sock", "rcv_nxt"), ("BYTES_ACKED_OFFSET", "tcp_sock", "bytes_acked")];

/// The most that may be unacknowledged by the client when the server sends past the loopback connection, in bytes. One call
/// may add half a MiB. The client's send buffer must be much larger: where it is full, the server's call fails, and a
/// server that waits for an edge is never told to try again.
pub const CEILING: u64 = 8 << 20;

/// What the daemon asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Is there a socket of this host at the other end?
    Look = 0,
    /// What is sent on it is to go past the loopback connection: from now on, or from the next run of [`SEIZE`] on.
    Capture = 1,
    /// What has become of that? The mark is removed.
    Settle = 2,
}

/// What [`SEIZE`] has to know of a marked socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Mark {
    /// Cookie of our socket to the server.
    pub upstream: u64,
    /// Where the direction from the server to the client is, in [`super::sockmap::DIRECTIONS`].
    pub slot: u64,
    /// Bytes that the server sent before the direction began.
    pub before: u64,
    /// Address of the server's socket in the kernel.
    pub server: u64,
    /// Address of the client's.
    pub client: u64,
    /// [`Answer`], once there is one; else 0.
    pub answer: u64,
}

/// One request: the input of [`REACH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// [`Task`].
    pub task: u64,
    /// Cookie of our socket to the server.
    pub upstream: u64,
    /// Cookie of the client's socket.
    pub client: u64,
    /// Where the direction from the server to the client is, in [`super::sockmap::DIRECTIONS`].
    pub slot: u64,
    /// Bytes that the server sent before the direction began.
    pub before: u64,
    /// 4 or 6: IPv4 or IPv6.
    pub family: u64,
    /// The server's socket as the kernel looks it up (`struct bpf_sock_tuple`): the address at its other end, which is ours,
    /// its own, and the two ports, all as they stand in a packet.
    pub tuple: [u8; TUPLE_BYTES],
    /// 0.
    pub padding: [u8; 4],
}

/// Bytes of an IPv6 tuple.
pub const TUPLE_BYTES: usize = 36;
/// Bytes of an IPv4 tuple.
pub const TUPLE_BYTES_IPV4: usize = 12;

/// Bytes of a [`Request`].
pub const REQUEST_BYTES: usize = 88;

const _: () = assert!(size_of::<Request>() == REQUEST_BYTES);

impl Request {
    /// As the program reads it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let words = [self.task, self.upstream, self.client, self.slot, self.before, self.family];
        let words = words.map(u64::to_ne_bytes);
        for (to, from) in bytes.iter_mut().zip(words.as_flattened().iter().chain(&self.tuple)) {
            *to = *from;
        }
        bytes
    }
}

/// What [`REACH`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done; or there is such a socket.
    Yes = 1,
    /// No socket of this network namespace is at the other end.
    NotFound = 2,
    /// The socket is not established, or no longer.
    NotEstablished = 3,
    /// The server has not read yet what it was sent.
    Unread = 4,
    /// The kernel does not let the socket be captured: another BPF program has it, or it encrypts in the kernel.
    Refused = 5,
    /// The client's socket is not spliced any more.
    NoClient = 6,
    /// The request was not understood.
    Malformed = 7,
}

impl Answer {
    /// From the program's return value.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        let all =
            [Self::Yes, Self::NotFound, Self::NotEstablished, Self::Unread, Self::Refused, Self::NoClient];
        all.into_iter().find(|&answer| answer as u32 == code).unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_every_field_in_its_place() {
        let request = Request {
            task: 1,
            upstream: 2,
            client: 3,
            slot: 4,
            before: 5,
            family: 6,
            tuple: [7; TUPLE_BYTES],
            padding: [0; 4],
        };
        let bytes = request.to_bytes();
        assert_eq!(bytes[core::mem::offset_of!(Request, slot)..][..8], 4_u64.to_ne_bytes());
        let tuple = core::mem::offset_of!(Request, tuple);
        assert_eq!(bytes[tuple..], [[7; TUPLE_BYTES].as_slice(), &[0; 4]].concat());
    }

    #[test]
    fn every_answer_comes_back() {
        for answer in [Answer::Yes, Answer::NoClient, Answer::Malformed] {
            assert_eq!(Answer::from_code(answer as u32), answer);
        }
        assert_eq!(Answer::from_code(0), Answer::Malformed);
    }
}
