//! What somebody else with root's rights can do to attachments and pins.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::sys::{BpfMap, BpfVerdict, address, address_of_room, bpf, bpf_object, number};

/// The part of `union bpf_attr` that commands on pins use.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// A link between a program and what it is attached to.
#[derive(Debug)]
pub struct BpfLink(OwnedFd);

impl BpfLink {
    /// Opens a pinned one.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // BPF_OBJ_GET
        bpf_object(7, &mut Object { path: address(path.as_bytes_with_nul()), fd: 0, flags: 0 }).map(Self)
    }

    /// Attaches a stream verdict to a map of sockets (Linux 6.10). As long as the link is there the kernel takes no other one.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn of_verdict(map: &BpfMap, verdict: &BpfVerdict) -> io::Result<Self> {
        // BPF_LINK_CREATE: program, target, BPF_SK_SKB_STREAM_VERDICT, flags.
        bpf_object(28, &mut [number(&verdict.0)?, number(&map.fd)?, 5, 0]).map(Self)
    }

    /// Detaches it (`bpftool link detach`).
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn detach(&self) -> io::Result<()> {
        bpf(34, &mut [number(&self.0)?]).map(drop)
    }

    /// Puts another program into it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn replace(&self, program: &BpfClassifier) -> io::Result<()> {
        bpf(29, &mut [number(&self.0)?, number(&program.0)?, 0, 0]).map(drop)
    }

    /// The id of its program, if it is still attached.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn program(&self) -> io::Result<Option<u32>> {
        /// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD uses.
        #[repr(C)]
        struct Ask {
            fd: u32,
            length: u32,
            info: u64,
        }
        // Type, id, program, padding, and for programs at interfaces the interface.
        let mut info = [0_u32; 8];
        let (fd, length) = (number(&self.0)?, u32::try_from(size_of_val(&info)).map_err(io::Error::other)?);
        bpf(15, &mut Ask { fd, length, info: address_of_room(&mut info) })?;
        let [_, _, program, _, interface, ..] = info;
        Ok((interface != 0).then_some(program))
    }
}

/// A program for interfaces that says the same of every packet.
#[derive(Debug)]
pub struct BpfClassifier(OwnedFd);

impl BpfClassifier {
    /// Loads one that passes packets on to the next program (`TCX_NEXT`, `TC_ACT_UNSPEC`).
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn that_passes() -> io::Result<Self> {
        Self::that_says(-1)
    }

    /// Loads one that says this: `TC_ACT_OK` is 0, and no other program is asked then; `TC_ACT_SHOT` is 2.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn that_says(verdict: i32) -> io::Result<Self> {
        /// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
        #[repr(C)]
        struct Load {
            kind: u32,
            length: u32,
            instructions: u64,
            license: u64,
        }
        // r0 = verdict; exit
        let instructions = [0xb7 | u64::from(verdict.cast_unsigned()) << 32, 0x95];
        let license = c"GPL";
        // BPF_PROG_TYPE_SCHED_CLS
        let (kind, length) = (3, 2);
        let (instructions, license) = (address(&instructions), address(license.to_bytes_with_nul()));
        bpf_object(5, &mut Load { kind, length, instructions, license }).map(Self)
    }

    /// Attaches it to what comes in by an interface of this thread's network namespace (tcx, Linux 6.6), before all programs that are
    /// there, or behind them.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn attach(&self, interface: u32, before: bool) -> io::Result<BpfLink> {
        // BPF_LINK_CREATE: program, target, BPF_TCX_INGRESS, BPF_F_BEFORE or nothing.
        let flags = if before { 1 << 3 } else { 0 };
        bpf_object(28, &mut [number(&self.0)?, interface, 46, flags]).map(BpfLink)
    }

    /// Gives it a name in a BPF file system.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(&self.0, path)
    }
}

pub(crate) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = number(object)?;
    // BPF_OBJ_PIN
    bpf(6, &mut Object { path: address(path.as_bytes_with_nul()), fd, flags: 0 }).map(drop)
}

impl BpfMap {
    /// Gives it a name in a BPF file system.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(&self.fd, path)
    }
}
