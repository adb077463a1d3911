//! Where the guard is attached.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Guard;
use crate::kernel::Unavailable;
use crate::kernel::failure::denied;
use crate::sys;

/// How the program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By the driver, before the kernel has made anything of the packet.
    Native,
    /// By the kernel, for any interface.
    Generic,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One attachment, for as long as the value lives, or as it is pinned.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    pub(crate) interface: u32,
    pub(crate) mode: Mode,
}

impl Link {
    /// Whether the program is still attached to that interface.
    pub(crate) fn is_attached(&self) -> bool {
        matches!(sys::link_interface(&self.fd), Ok(Some(interface)) if interface == self.interface)
    }
}

impl Guard {
    /// Attaches to an interface in the first of `modes` that works. `pin`: a folder of a BPF file system where the attachment is to
    /// outlive this process; one that is there already is taken over.
    pub(crate) fn attach(
        &self,
        (name, interface): (&str, u32),
        modes: &[Mode],
        pin: Option<&Path>,
    ) -> Result<Link, Unavailable> {
        let mut failure = None;
        for &mode in modes {
            let path = pin.map(|folder| pin_path(folder, name, mode));
            match self.attach_as(interface, mode, path.as_deref()) {
                Ok(fd) => return Ok(Link { fd, interface, mode }),
                Err(error) => failure = Some(explain(name, mode, &error)),
            }
        }
        Err(failure.unwrap_or_else(|| explain(name, Mode::Generic, &io::ErrorKind::InvalidInput.into())))
    }

    fn attach_as(&self, interface: u32, mode: Mode, pin: Option<&Path>) -> io::Result<OwnedFd> {
        if let Some(path) = pin
            && let Ok(link) = sys::pinned(path)
        {
            if sys::link_interface(&link)? == Some(interface) {
                sys::update_link(&link, &self.program())?;
                return Ok(link);
            }
            // Of an interface that has gone.
            std::fs::remove_file(path)?;
        }
        let link = sys::attach_xdp(&self.program(), interface, mode == Mode::Native)?;
        if let Some(path) = pin {
            sys::pin(&link, path)?;
        }
        Ok(link)
    }
}

fn pin_path(folder: &Path, name: &str, mode: Mode) -> PathBuf {
    folder.join(format!("guard-{name}-{}", mode.name()))
}

fn explain(name: &str, mode: Mode, error: &io::Error) -> Unavailable {
    let remedy = match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            format!(
                "another XDP program is there, and the kernel takes one for each interface: see `ip link show {name}`, and detach \
                 it or leave {name} out of 'interfaces'"
            )
        }
        Some(libc::EOPNOTSUPP) => {
            "its driver has no native XDP: set mode = \"generic\" or \"auto\"".to_owned()
        }
        Some(libc::EINVAL | libc::ERANGE | libc::ENOSPC) => format!(
            "the kernel log may say why; an MTU that is too large, LRO and too many channels are common reasons (`ethtool -k \
             {name}`, `ethtool -l {name}`); mode = \"generic\" works with any"
        ),
        Some(libc::EPERM | libc::EACCES) => denied(),
        Some(libc::ENOENT | libc::ENOTDIR) => {
            "make the folder of 'pin' in a BPF file system (mount -t bpf bpf /sys/fs/bpf; docker or podman run: -v /sys/fs/bpf:/sys/fs/bpf)".to_owned()
        }
        _ => format!("see what `ip -details link show {name}` says of it"),
    };
    Unavailable {
        log: None,
        what: format!("the guard cannot be attached to {name} in mode {}: {error}", mode.name()),
        remedy,
    }
}
