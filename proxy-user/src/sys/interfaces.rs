//! The interfaces of this network namespace and their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// Names with their numbers.
    pub(crate) links: BTreeMap<String, u32>,
    /// All addresses, in no order.
    pub(crate) addresses: Vec<IpAddr>,
    /// Numbers of those that have any.
    pub(crate) addressed: BTreeSet<u32>,
}

/// Asks the kernel.
pub(crate) fn interfaces() -> io::Result<Interfaces> {
    let mut head = std::ptr::null_mut();
    // SAFETY: `head` is a live pointer, which is set on success to a list that is ours until it is freed below.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Interfaces::default();
    let mut next: *const libc::ifaddrs = head;
    while !next.is_null() {
        // SAFETY: an entry of the list, which is freed only below.
        let entry = unsafe { &*next };
        // SAFETY: the name is a C string that lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        // SAFETY: the name is a C string.
        let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if number != 0 {
            found.links.insert(name.to_string_lossy().into_owned(), number);
        }
        if let Some(address) = address(entry) {
            found.addresses.push(address);
            found.addressed.insert(number);
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

/// The number of the interface with this name, or of this number. It may be another one when the interface has gone and come.
pub(crate) fn interface_number(name: &str) -> io::Result<u32> {
    let absent = || io::Error::new(io::ErrorKind::NotFound, format!("this host has no interface {name}"));
    let text = CString::new(name).map_err(|_| absent())?;
    // SAFETY: the name is a C string that lives as long as the call.
    let number = unsafe { libc::if_nametoindex(text.as_ptr()) };
    if number != 0 { Ok(number) } else { name.parse().map_err(|_| absent()) }
}

fn address(entry: &libc::ifaddrs) -> Option<IpAddr> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: an address has its family in front, which says what it is.
    match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
        libc::AF_INET => {
            // SAFETY: as the family says. The copy needs no alignment.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let found = interfaces().unwrap();
        assert!(found.links.get("lo").is_some_and(|number| *number > 0), "{found:?}");
    }

    #[test]
    fn an_interface_has_a_number() {
        let number = interface_number("lo").unwrap();
        assert_eq!(interface_number(&number.to_string()).unwrap(), number);
        for absent in ["absent0", "l\0o", ""] {
            let error = interface_number(absent).unwrap_err().to_string();
            assert_eq!(error, format!("this host has no interface {absent}"));
        }
    }
}
