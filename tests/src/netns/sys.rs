//! The only unsafe room of the harness: system calls that the standard library does not offer.
#![expect(
    unsafe_code,
    reason = "setns, kill, sigwait, bpf and pidfd_getfd have no safe form in the dependencies that we have"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::ptr;

/// Moves the calling thread, and no other, into the network namespace that `handle` refers to.
pub(super) fn enter_network_namespace(handle: &File) -> io::Result<()> {
    // SAFETY: setns takes no pointers, and the descriptor is open as long as `handle` is borrowed.
    check(unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Sends a signal to one process.
///
/// # Errors
/// What kill(2) reports, such as ESRCH for a process that is gone.
pub fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers.
    check(unsafe { libc::kill(pid, signal) })
}

/// Keeps SIGINT away from this thread and those that it starts, so that [`wait_for_interrupt`] gets it.
///
/// # Errors
/// What pthread_sigmask(3) reports.
pub fn block_interrupt() -> io::Result<()> {
    let set = interrupt_set();
    // SAFETY: `set` is initialised and outlives the call; the old set is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Returns when SIGINT has arrived. It must be blocked in all threads.
///
/// # Errors
/// What sigwait(3) reports.
pub fn wait_for_interrupt() -> io::Result<()> {
    let set = interrupt_set();
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn interrupt_set() -> libc::sigset_t {
    // SAFETY: all zeros is a valid sigset_t, which sigemptyset then makes an empty set.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live value, and SIGINT is a valid signal number.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
    }
    set
}

/// Bytes that a socket has taken and whose receipt its peer has not acknowledged (`SIOCOUTQ`).
///
/// # Errors
/// What ioctl(2) reports.
pub fn unsent(socket: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; SIOCOUTQ (= TIOCOUTQ) writes one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    u64::try_from(bytes).map_err(io::Error::other)
}

/// A kind of BPF object that has system-wide ids, as its command number in bpf(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum BpfKind {
    /// BPF_PROG_GET_NEXT_ID
    Program = 11,
    /// BPF_MAP_GET_NEXT_ID
    Map = 12,
}

/// The ids of all BPF objects of one kind on this machine.
///
/// # Errors
/// What bpf(2) reports, such as EPERM without CAP_SYS_ADMIN.
pub fn bpf_ids(kind: BpfKind) -> io::Result<Vec<u32>> {
    /// The part of `union bpf_attr` that the GET_NEXT_ID commands use.
    #[repr(C)]
    struct NextId {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut ids = Vec::new();
    let mut attr = NextId { start: 0, next: 0, flags: 0 };
    loop {
        // SAFETY: `attr` is a live value of the size that is passed, and the kernel writes only `next`.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, kind as i32, &raw mut attr, size_of::<NextId>()) };
        if answer != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::NotFound { Ok(ids) } else { Err(error) };
        }
        ids.push(attr.next);
        attr.start = attr.next;
    }
}

/// How many entries the BPF map with this id has, whose keys have `key_size` bytes.
///
/// # Errors
/// What bpf(2) reports, such as ENOENT for a map that is gone.
pub fn map_entries(id: u32, key_size: u32) -> io::Result<usize> {
    /// BPF_MAP_GET_NEXT_KEY and BPF_MAP_GET_FD_BY_ID
    const NEXT_KEY: i32 = 4;
    const OPEN: i32 = 14;
    /// The parts of `union bpf_attr` that the two commands use.
    #[repr(C)]
    struct Open {
        id: u32,
        next: u32,
        flags: u32,
    }
    #[repr(C)]
    struct NextKey {
        map: i32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let mut attr = Open { id, next: 0, flags: 0 };
    // SAFETY: `attr` is a live value of the size that is passed, and the kernel only reads it.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, OPEN, &raw mut attr, size_of::<Open>()) };
    let map = i32::try_from(answer).map_err(io::Error::other)?;
    check(map.min(0))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    let _open = unsafe { OwnedFd::from_raw_fd(map) };
    let mut key = vec![0_u8; usize::try_from(key_size).map_err(io::Error::other)?];
    let mut next = key.clone();
    let mut count = 0;
    loop {
        let from = if count == 0 { 0 } else { key.as_ptr() as u64 };
        let mut attr = NextKey { map, padding: 0, key: from, next: next.as_mut_ptr() as u64 };
        // SAFETY: both keys are live and have the size that the map's keys have; no key asks for the first one.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, NEXT_KEY, &raw mut attr, size_of::<NextKey>()) };
        if answer != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::NotFound { Ok(count) } else { Err(error) };
        }
        count += 1;
        mem::swap(&mut key, &mut next);
    }
}

fn check(answer: i32) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A BPF map that another process may own too.
#[derive(Debug)]
pub struct BpfMap {
    pub(super) fd: OwnedFd,
    pub(super) key_size: usize,
}

/// The part of `union bpf_attr` that commands on one element use.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    /// The next key for GET_NEXT_KEY.
    value: u64,
    flags: u64,
}

/// The part that attaching and detaching use.
#[repr(C)]
struct Attachment {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

impl BpfMap {
    /// Opens the map with this id, whoever made it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn open(id: u32, key_size: usize) -> io::Result<Self> {
        // BPF_MAP_GET_FD_BY_ID: id, two words that are not used.
        Ok(Self { fd: bpf_object(14, &mut [id, 0, 0])?, key_size })
    }

    /// Makes a map of sockets (`BPF_MAP_TYPE_SOCKMAP`) by index.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn of_sockets(entries: u32) -> io::Result<Self> {
        // BPF_MAP_CREATE: type, sizes of key and value, entries, flags.
        Ok(Self { fd: bpf_object(0, &mut [15, 4, 4, entries, 0])?, key_size: 4 })
    }

    /// Makes an array (`BPF_MAP_TYPE_ARRAY`) of one counter of 64 bits.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub(super) fn of_one_counter() -> io::Result<Self> {
        Ok(Self { fd: bpf_object(0, &mut [2, 4, 8, 1, 0])?, key_size: 4 })
    }

    /// Its name, as its maker has said.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn name(&self) -> io::Result<String> {
        /// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD uses.
        #[repr(C)]
        struct Question {
            fd: u32,
            size: u32,
            info: u64,
        }
        // `struct bpf_map_info`: six words, then the name.
        let mut info = [0; 40];
        let (fd, size) = (number(&self.fd)?, u32::try_from(info.len()).map_err(io::Error::other)?);
        bpf(15, &mut Question { fd, size, info: address_of_room(&mut info) })?;
        let name = info.get(24..).and_then(|name| name.split(|byte| *byte == 0).next()).unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// The keys that are in it now.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let before = keys.last().map_or(0, |key| address(key));
            match self.element(4, before, address_of_room(&mut next), 0) {
                Ok(()) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes an element out.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        self.element(3, address(self.checked(key)?), 0, 0)
    }

    /// Puts a socket in.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn insert(&self, key: &[u8], socket: &impl AsRawFd) -> io::Result<()> {
        let value = socket.as_raw_fd().to_ne_bytes();
        self.element(2, address(self.checked(key)?), address(&value), 0)
    }

    /// The kernel reads as many bytes as the map's keys have.
    fn checked<'key>(&self, key: &'key [u8]) -> io::Result<&'key [u8]> {
        if key.len() == self.key_size { Ok(key) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    pub(super) fn element(&self, command: i32, key: u64, value: u64, flags: u64) -> io::Result<()> {
        let map = number(&self.fd)?;
        bpf(command, &mut Element { map, padding: 0, key, value, flags }).map(drop)
    }

    /// Attaches a stream verdict to it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn attach_verdict(&self, verdict: &BpfVerdict) -> io::Result<()> {
        self.attachment(8, verdict, Self::RECEIVED)
    }

    /// Detaches a stream verdict from it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn detach_verdict(&self, verdict: &BpfVerdict) -> io::Result<()> {
        self.attachment(9, verdict, Self::RECEIVED)
    }

    /// Detaches a verdict on what is sent from it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn detach_sent(&self, verdict: &BpfVerdict) -> io::Result<()> {
        self.attachment(9, verdict, Self::SENT)
    }

    /// BPF_SK_SKB_STREAM_VERDICT and BPF_SK_MSG_VERDICT
    const RECEIVED: u32 = 5;
    const SENT: u32 = 7;

    fn attachment(&self, command: i32, verdict: &BpfVerdict, kind: u32) -> io::Result<()> {
        let (target, program) = (number(&self.fd)?, number(&verdict.0)?);
        bpf(command, &mut Attachment { target, program, kind, flags: 0 }).map(drop)
    }
}

/// A program that decides what becomes of the bytes that a socket receives.
#[derive(Debug)]
pub struct BpfVerdict(pub(super) OwnedFd);

impl BpfVerdict {
    /// Opens the program with this id, whoever loaded it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn open(id: u32) -> io::Result<Self> {
        // BPF_PROG_GET_FD_BY_ID: id, two words that are not used.
        Ok(Self(bpf_object(13, &mut [id, 0, 0])?))
    }

    /// Loads one that lets every byte pass to the socket's owner.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn that_passes() -> io::Result<Self> {
        /// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
        #[repr(C)]
        struct Load {
            kind: u32,
            length: u32,
            instructions: u64,
            license: u64,
        }
        // r0 = SK_PASS; exit
        let instructions = [0x0000_0001_0000_00b7_u64, 0x95];
        let license = c"GPL";
        // BPF_PROG_TYPE_SK_SKB
        let (kind, length) = (14, 2);
        let (instructions, license) = (address(&instructions), address(license.to_bytes_with_nul()));
        bpf_object(5, &mut Load { kind, length, instructions, license }).map(Self)
    }
}

/// A duplicate of a descriptor of another process.
///
/// # Errors
/// What pidfd_open(2) and pidfd_getfd(2) report.
pub fn duplicate_of(pid: u32, descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call takes no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) })
}

pub(super) fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().expose_provenance() as u64
}

pub(super) fn address_of_room<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr().expose_provenance() as u64
}

pub(super) fn number(fd: &OwnedFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// Addresses in `attr` must be of values that live, with the sizes that the command expects.
pub(super) fn bpf<T>(command: i32, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live value of the size that is passed; all callers are in this file, `syscalls.rs` or `pinned.rs`, and give
    // addresses of live values in it.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A command that gives a new descriptor.
pub(super) fn bpf_object<T>(command: i32, attr: &mut T) -> io::Result<OwnedFd> {
    owned(bpf(command, attr)?)
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
