//! When interfaces or addresses come, go or change (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::socket::Reports;

/// A socket that becomes readable when interfaces or addresses change.
#[derive(Debug)]
pub(crate) struct Changes(Reports);

impl Changes {
    /// Of interfaces and addresses in the network namespace of this thread.
    pub(crate) fn watch() -> io::Result<Self> {
        Self::of(libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR)
    }

    /// Of addresses only.
    pub(crate) fn watch_addresses() -> io::Result<Self> {
        Self::of(libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR)
    }

    fn of(groups: libc::c_int) -> io::Result<Self> {
        Reports::listen(u32::try_from(groups).map_err(io::Error::other)?).map(Self)
    }

    /// Takes all reports without reading them: some may have been lost, so the caller asks the kernel anew in any case.
    pub(crate) fn take(&self) {
        self.0.take(|_| {});
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_can_be_watched() {
        Changes::watch().unwrap().take();
        Changes::watch_addresses().unwrap().take();
    }
}
