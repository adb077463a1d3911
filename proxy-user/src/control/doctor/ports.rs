//! Who listens on an address.

use std::fmt;
use std::net::SocketAddr;

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The process that keeps others from listening on `address` in this network namespace. None if there is none, or if it
/// cannot be seen from here.
pub(crate) fn listener(address: SocketAddr) -> Option<Listener> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let entries = tables.into_iter().filter_map(Result::ok).flatten();
    let inodes: Vec<u64> = entries
        .filter(|entry| entry.state == TcpState::Listen && overlaps(entry.local_address, address))
        .map(|entry| entry.inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    // A process may end while it is looked at.
    procfs::process::all_processes().ok()?.flatten().find_map(|process| owner(&process, &inodes))
}

fn owner(process: &Process, inodes: &[u64]) -> Option<Listener> {
    let holds = |target: &FDTarget| matches!(target, FDTarget::Socket(inode) if inodes.contains(inode));
    process.fd().ok()?.flatten().find(|open| holds(&open.target))?;
    Some(Listener { name: process.stat().ok()?.comm, pid: process.pid })
}

/// Whether a socket that is bound to `one` keeps another one from being bound to `other`. An unspecified IPv6 address
/// includes IPv4, unless it was bound for IPv6 alone, which `/proc/net/tcp6` does not tell.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let [a, b] = [one, other].map(|address| address.ip().to_canonical());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_that_listens_is_found() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let found = listener(SocketAddr::from(([0, 0, 0, 0], address.port()))).unwrap();
        assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
        assert!(!found.name.is_empty());
        let free = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = free.local_addr().unwrap();
        drop(free);
        assert_eq!(listener(port), None);
    }

    #[test]
    fn addresses_overlap_when_one_includes_the_other() {
        let overlap = |one: &str, other: &str| overlaps(one.parse().unwrap(), other.parse().unwrap());
        assert!(overlap("[::]:443", "10.0.0.1:443") && overlap("10.0.0.1:443", "[::]:443"));
        assert!(overlap("[::ffff:10.0.0.1]:443", "10.0.0.1:443"));
        assert!(!overlap("10.0.0.1:443", "10.0.0.2:443") && !overlap("[::]:443", "[::]:444"));
    }
}
