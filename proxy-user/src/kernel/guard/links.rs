//! Where the guard is attached.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{Xdp, XdpLink, XdpMode};

use super::{Guard, lock, program};
use crate::kernel::Unavailable;
use crate::kernel::failure::{denied, os_error};
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

    const fn of_aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// One attachment, for as long as the value lives, or as it is pinned.
#[derive(Debug)]
pub(crate) struct Link {
    held: Held,
    /// Id of the program.
    program: u32,
    pub(crate) interface: u32,
    pub(crate) mode: Mode,
}

#[derive(Debug)]
enum Held {
    Link(#[expect(dead_code, reason = "its life is what attaches the program")] XdpLink),
    /// Opened from its pin. aya's links tell neither their descriptor nor their interface.
    Pinned(OwnedFd),
}

/// Why the program cannot be attached.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Link {
    /// Whether the program is still attached to that interface. A later daemon may have put its own program into a link that is
    /// pinned.
    pub(crate) fn is_attached(&self) -> bool {
        match &self.held {
            Held::Link(_) => {
                let found = sys::xdp_program(self.interface, self.mode == Mode::Native);
                found.is_ok_and(|found| found == Some(self.program))
            }
            Held::Pinned(link) => sys::link_at(link).is_ok_and(|(at, _)| at == Some(self.interface)),
        }
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
                Ok(held) => return Ok(Link { held, program: self.id, interface, mode }),
                Err(error) => failure = Some(explain(name, mode, &error)),
            }
        }
        let none = || explain(name, Mode::Generic, &io::Error::from(io::ErrorKind::InvalidInput).into());
        Err(failure.unwrap_or_else(none))
    }

    fn attach_as(&self, interface: u32, mode: Mode, pin: Option<&Path>) -> Result<Held, Failure> {
        let mut ebpf = lock(&self.ebpf);
        let program = program(&mut ebpf)?;
        let Some(path) = pin else {
            return attach(program, interface, mode).map(Held::Link);
        };
        if let Ok(link) = sys::pinned(path) {
            if sys::link_at(&link)?.0 == Some(interface) {
                replace(program, path)?;
                return Ok(Held::Pinned(link));
            }
            // Of an interface that has gone.
            std::fs::remove_file(path)?;
        }
        drop(FdLink::try_from(attach(program, interface, mode)?)?.pin(path)?);
        Ok(Held::Pinned(sys::pinned(path)?))
    }
}

fn attach(program: &mut Xdp, interface: u32, mode: Mode) -> Result<XdpLink, Failure> {
    let id = program.attach_to_if_index(interface, mode.of_aya())?;
    Ok(program.take_link(id)?)
}

/// Puts the program in the place of the one of a link, without a packet in between.
fn replace(program: &mut Xdp, pin: &Path) -> Result<(), Failure> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    drop(program.take_link(id)?);
    Ok(())
}

fn pin_path(folder: &Path, name: &str, mode: Mode) -> PathBuf {
    folder.join(format!("guard-{name}-{}", mode.name()))
}

fn explain(name: &str, mode: Mode, error: &Failure) -> Unavailable {
    let system = os_error(error);
    let said = system.map_or_else(|| error.to_string(), io::Error::to_string);
    let remedy = match system.and_then(io::Error::raw_os_error) {
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
        what: format!("the guard cannot be attached to {name} in mode {}: {said}", mode.name()),
        remedy,
    }
}
