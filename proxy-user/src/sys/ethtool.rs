//! What a network card is set to do (`include/uapi/linux/ethtool.h`).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// `SIOCETHTOOL`, `ETHTOOL_GFLAGS` and `ETH_FLAG_LRO`.
const ETHTOOL: libc::c_ulong = 0x8946;
const GET_FLAGS: u32 = 0x25;
const LARGE_RECEIVE: u32 = 1 << 15;

/// ConnectionLimit for a name, with its 0 (`IFNAMSIZ`).
const NAME: usize = 16;

/// `struct ifreq`, which has 24 bytes behind the name.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    value: *mut u32,
    rest: [u64; 2],
}

/// Whether an interface of this thread's network namespace joins packets before the kernel sees them (large receive offload). May wait for
/// the kernel's lock of interfaces.
///
/// # Errors
/// `ENODEV`, or `EOPNOTSUPP` of a driver without settings.
pub(crate) fn joins_packets(interface: &str) -> io::Result<bool> {
    let mut name = [0; NAME];
    let bytes = interface.as_bytes();
    name.get_mut(..bytes.len())
        .filter(|_| bytes.len() < NAME)
        .ok_or(io::ErrorKind::NotFound)?
        .copy_from_slice(bytes);
    let mut answer = [GET_FLAGS, 0];
    let mut request = Request { name, value: answer.as_mut_ptr(), rest: [0; 2] };
    // Any socket of the namespace will do.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: `request` is a live `struct ifreq`, whose value points to the two words of `answer`, which lives as long: the kernel reads the
    // first one and writes the second.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL as _, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [_, flags] = answer;
    Ok(flags & LARGE_RECEIVE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_joins_nothing_and_what_is_not_there_is_an_error() {
        assert!(!joins_packets("lo").unwrap());
        for absent in ["is-not-there", "a-name-that-is-too-long", ""] {
            joins_packets(absent).unwrap_err();
        }
    }
}
