//! Network namespaces: which one this is, and which others there are.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use proxy_common::packet::folder::Namespace;
use socket2::{Domain, Socket, Type};

/// That of this thread. Linux 5.14 and later have the cookie.
pub(crate) fn namespace() -> io::Result<Namespace> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = u32::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and the number of them to `length`. Both live on this stack
    // beyond the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Namespace { cookie, inode: fs::metadata("/proc/thread-self/ns/net")?.ino() })
}

/// Inode numbers of the network namespaces that a process or a mount that can be seen from here is in or holds. Others may live,
/// held by nothing but an open file or a socket.
pub(crate) fn inhabited() -> BTreeSet<u64> {
    let threads = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_process.then(|| fs::read_dir(process.path().join("task")).ok())?
    });
    let mut found: BTreeSet<u64> = threads
        .flatten()
        .flatten()
        .filter_map(|thread| number(fs::read_link(thread.path().join("ns/net")).ok()?.to_str()?))
        .collect();
    for table in ["/proc/self/mountinfo", "/proc/1/mountinfo"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| number(line.split(' ').nth(3)?)));
    }
    found
}

/// As in `net:[4026531840]`.
fn number(text: &str) -> Option<u64> {
    text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Where BPF file systems are mounted.
pub(crate) fn bpf_mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(bpf_mount).collect()
}

fn bpf_mount(line: &str) -> Option<PathBuf> {
    let (before, behind) = line.split_once(" - ")?;
    (behind.split(' ').next() == Some("bpf")).then(|| before.split(' ').nth(4).map(unescape))?
}

/// Blanks and the like are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    let (mut plain, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { behind.get(3..).unwrap_or_default() } else { behind };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_namespace_is_among_those_that_somebody_is_in() {
        let own = namespace().unwrap();
        assert!(own.cookie != 0 && inhabited().contains(&own.inode), "{own:?}");
        assert_eq!(namespace().unwrap(), own);
    }

    #[test]
    fn mounts_of_bpf_are_found_whatever_they_are_called() {
        let line = "36 35 0:32 / /sys/fs/a\\040b rw,nosuid shared:9 - bpf bpf rw,mode=700";
        assert_eq!(bpf_mount(line), Some(PathBuf::from("/sys/fs/a b")));
        assert_eq!(bpf_mount("36 35 0:32 / /proc rw - proc proc rw"), None);
        assert_eq!(bpf_mount(""), None);
        assert_eq!(number("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(number("mnt:[1]"), None);
    }
}
