//! What TCP takes of the host's memory, and how much it may.

use std::fs;

/// Without a setting the kernel starts to save when TCP has 3/64 of the memory (`tcp_init_mem` in `net/ipv4/tcp.c`).
const SHARE: (u64, u64) = (3, 64);

/// Bytes in the buffers of all TCP sockets of the host, in whatever network namespace.
pub(crate) fn tcp_memory() -> Option<u64> {
    parse_sockstat(&fs::read_to_string("/proc/net/sockstat").ok()?).map(bytes)
}

/// How many of them the kernel finds modest: the first value of `tcp_mem` (tcp(7)). Network namespaces other than the
/// host's do not show that; there it is computed as the kernel does.
pub(crate) fn modest_tcp_memory() -> u64 {
    let set = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").ok();
    let set = set.and_then(|values| values.split_whitespace().next()?.parse().ok()).map(bytes);
    set.unwrap_or_else(|| {
        let info = rustix::system::sysinfo();
        info.totalram.saturating_mul(info.mem_unit.into()) / SHARE.1 * SHARE.0
    })
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// The pages that the line of TCP counts.
fn parse_sockstat(text: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_tcp_are_found_by_name() {
        let text = "sockets: used 30\nTCP: inuse 4 orphan 0 tw 7 alloc 9 mem 52\nUDP: inuse 1 mem 3\n";
        assert_eq!(parse_sockstat(text), Some(52));
        assert_eq!(parse_sockstat("TCP: inuse 4\nUDP: inuse 1 mem 3\n"), None);
        assert_eq!(parse_sockstat(""), None);
    }

    #[test]
    fn this_host_tells_both() {
        assert!(tcp_memory().is_some());
        assert!(modest_tcp_memory() > 1 << 20);
    }
}
