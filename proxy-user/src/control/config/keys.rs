//! The sections and keys that a configuration may hold. docs/config.md describes the same ones; a test
//! compares the two.

use std::fmt;

/// Longest word that a correction is looked for, in bytes.
const MAX_WORD: usize = 64;

/// How many known words are tried. Upstream names come from the file, so there may be very many.
const MAX_CANDIDATES: usize = 100;

/// One key and a value that shows its form.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

/// One table of the file.
pub(super) struct Section {
    pub(super) name: &'static str,
    /// Written as `[[name]]`, once for each entry; else as `[name]`.
    pub(super) repeated: bool,
    pub(super) keys: &'static [&'static Key],
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repeated { write!(f, "[[{}]]", self.name) } else { write!(f, "[{}]", self.name) }
    }
}

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

pub(super) static NAME: Key = key("name", r#""web""#);
pub(super) static ADDRESS: Key = key("address", r#"["[::]:443"]"#);
pub(super) static TO: Key = key("to", r#""octopus-web""#);
pub(super) static SNI: Key = key("sni", r#"["polling.**"]"#);
pub(super) static SOURCE: Key = key("source", r#"["10.0.0.0/8"]"#);
pub(super) static DEFAULT: Key = key("default", "true");
pub(super) static SERVERS: Key = key("servers", r#"["10.0.0.5:8443"]"#);
pub(super) static DATAPATH: Key = key("datapath", r#""auto""#);
pub(super) static HOLD: Key = key("hold", r#""15s""#);
pub(super) static SOCKET: Key = key("socket", r#""/run/snisplice/admin.sock""#);
pub(super) static HTTP: Key = key("http", r#""127.0.0.1:10944""#);
pub(super) static HTTP_CLIENTS: Key = key("http_clients", "true");
pub(super) static HOSTS: Key = key("hosts", r#"["metrics.example.com"]"#);
pub(super) static READY_REQUIRES: Key = key("ready_requires", r#"["packet"]"#);
pub(super) static HELLO: Key = key("hello", r#""10s""#);
pub(super) static CONNECT: Key = key("connect", r#""5s""#);
pub(super) static HALF_CLOSE: Key = key("half_close", r#""60s""#);
pub(super) static IDLE: Key = key("idle", r#""1h""#);
pub(super) static DRAIN: Key = key("drain", r#""30s""#);
pub(super) static KEEPALIVE: Key = key("keepalive", r#""65s""#);
pub(super) static TCP_MEMORY: Key = key("tcp_memory", r#""512MiB""#);
pub(super) static SOURCE_CONNECTIONS: Key = key("source_connections", r#"1000"#);
pub(super) static HELLO_SIZE: Key = key("hello_size", r#""16KiB""#);

pub(super) static INTERFACES: Key = key("interfaces", r#"["eth0"]"#);
pub(super) static MODE: Key = key("mode", r#""auto""#);
pub(super) static DRY_RUN: Key = key("dry_run", r#"true"#);
pub(super) static ALLOW: Key = key("allow", r#"["10.0.0.0/8"]"#);
pub(super) static DENY: Key = key("deny", r#"["203.0.113.0/24"]"#);
pub(super) static DENY_FILE: Key = key("deny_file", r#""/etc/snisplice/deny.txt""#);
pub(super) static SYN_RATE: Key = key("syn_rate", r#"200"#);
pub(super) static SYN_BURST: Key = key("syn_burst", r#"400"#);
pub(super) static SYN_CEILING: Key = key("syn_ceiling", r#"20000"#);
pub(super) static SYN_RESERVE: Key = key("syn_reserve", r#"20"#);
pub(super) static SOURCE_V4: Key = key("source_v4", r#"32"#);
pub(super) static SOURCE_V6: Key = key("source_v6", r#"64"#);
pub(super) static WATCHED: Key = key("sources", r#"65536"#);
pub(super) static BAN_AFTER: Key = key("ban_after", r#"20"#);
pub(super) static BAN_WINDOW: Key = key("ban_window", r#""1m""#);
pub(super) static BAN_TIME: Key = key("ban_time", r#""10m""#);
pub(super) static BAN_LIMIT: Key = key("ban_limit", r#"10000"#);
pub(super) static PROTECT: Key = key("protect", r#"["octopus-polling"]"#);
pub(super) static PIN: Key = key("pin", r#""/sys/fs/bpf/snisplice""#);
pub(super) static PINS: Key = key("pins", r#""/sys/fs/bpf/snisplice""#);
pub(super) static PORTS: Key = key("ports", r#""61000-65535""#);
pub(super) static AFTER: Key = key("after", r#""1s""#);
pub(super) static LOCAL_SOURCES: Key = key("sources", r#"["10.0.0.2", "10.0.0.3"]"#);
pub(super) static ATTACH: Key = key("attach", r#""auto""#);
pub(super) static JOURNAL: Key = key("journal", r#""/run/snisplice/packet.journal""#);

pub(super) static LISTEN: Section = Section { name: "listen", repeated: true, keys: &[&NAME, &ADDRESS, &TO] };
pub(super) static ROUTE: Section =
    Section { name: "route", repeated: true, keys: &[&NAME, &SNI, &SOURCE, &DEFAULT, &TO] };
pub(super) static UPSTREAM: Section =
    Section { name: "upstream", repeated: true, keys: &[&NAME, &SERVERS, &DATAPATH, &HOLD] };
pub(super) static ADMIN: Section = Section {
    name: "admin",
    repeated: false,
    keys: &[&SOCKET, &HTTP, &HTTP_CLIENTS, &HOSTS, &READY_REQUIRES],
};
pub(super) static TIMEOUTS: Section = Section {
    name: "timeouts",
    repeated: false,
    keys: &[&HELLO, &CONNECT, &HALF_CLOSE, &IDLE, &DRAIN, &KEEPALIVE],
};
pub(super) static LIMITS: Section =
    Section { name: "limits", repeated: false, keys: &[&TCP_MEMORY, &SOURCE_CONNECTIONS, &HELLO_SIZE] };

pub(super) static GUARD: Section = Section {
    name: "guard",
    repeated: false,
    keys: &[
        &INTERFACES,
        &MODE,
        &DRY_RUN,
        &ALLOW,
        &DENY,
        &DENY_FILE,
        &SYN_RATE,
        &SYN_BURST,
        &SYN_CEILING,
        &SYN_RESERVE,
        &SOURCE_V4,
        &SOURCE_V6,
        &WATCHED,
        &BAN_AFTER,
        &BAN_WINDOW,
        &BAN_TIME,
        &BAN_LIMIT,
        &PROTECT,
        &PIN,
    ],
};

pub(super) static PACKET: Section = Section {
    name: "packet",
    repeated: false,
    keys: &[&AFTER, &PORTS, &LOCAL_SOURCES, &PINS, &JOURNAL, &ATTACH],
};

/// Every section, in the order of the reference.
pub(super) static SECTIONS: [&Section; 8] =
    [&LISTEN, &ROUTE, &UPSTREAM, &ADMIN, &TIMEOUTS, &LIMITS, &GUARD, &PACKET];

/// The known word that `word` is most likely a slip of: at most one edit for every three characters.
pub(super) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter(|candidate| candidate.len() <= MAX_WORD)
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}
