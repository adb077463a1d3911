//! System calls for frames: sending them as they are, and putting them to an XDP program.
#![expect(
    unsafe_code,
    reason = "bpf, packet sockets, prctl and sendmmsg have no safe form in the dependencies that we have"
)]

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::path::Path;

/// Frames that are handed to the kernel at a time.
const BATCH: usize = 128;

/// A BPF program, most often one for XDP.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// What a program made of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// For XDP: `XDP_DROP` is 1, `XDP_PASS` is 2.
    pub verdict: u32,
    /// Nanoseconds for each time, when it was run many times.
    pub nanoseconds: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN uses.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    input_size: u32,
    output_size: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// The part that BPF_PROG_LOAD uses.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
}

/// What a context of an XDP program tells: where the packet begins and ends, and the interface.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    interface: u32,
    queue: u32,
    egress: u32,
}

impl Program {
    /// Opens the program with this id, whoever loaded it.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn open(id: u32) -> io::Result<Self> {
        /// BPF_PROG_GET_FD_BY_ID
        const OPEN: i32 = 13;
        bpf(OPEN, &mut [id, 0, 0]).and_then(owned).map(Self)
    }

    /// Loads one that says the same of every frame.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn that_says(verdict: u32) -> io::Result<Self> {
        /// BPF_PROG_LOAD and BPF_PROG_TYPE_XDP
        const LOAD: i32 = 5;
        const XDP: u32 = 6;
        // r0 = verdict; exit
        let instructions = [0xb7 | u64::from(verdict) << 32, 0x95];
        let license = c"GPL";
        let mut load = Load {
            kind: XDP,
            length: 2,
            instructions: instructions.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
        };
        bpf(LOAD, &mut load).and_then(owned).map(Self)
    }

    /// Attaches it to an interface of this thread's network namespace, as long as the returned descriptor is open.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn attach(&self, interface: u32, native: bool) -> io::Result<OwnedFd> {
        /// BPF_LINK_CREATE, BPF_XDP, XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE
        const LINK: i32 = 28;
        const XDP: u32 = 37;
        let mode = if native { 4 } else { 2 };
        bpf(LINK, &mut [number(&self.0)?, interface, XDP, mode]).and_then(owned)
    }

    /// Gives it a name in a BPF file system.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        crate::netns::pin(&self.0, path)
    }

    /// Runs it on a frame of at least 14 bytes, so many times.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn run(&self, frame: &[u8], repeat: u32) -> io::Result<Run> {
        self.test(frame, TestRun { repeat, ..TestRun::default() })
    }

    /// Lets so many copies of a frame arrive at an interface, as if its driver had received them, and runs the program on each;
    /// what it passes goes on into the kernel.
    ///
    /// # Errors
    /// What bpf(2) reports.
    pub fn receive(&self, frame: &[u8], interface: u32, count: u32) -> io::Result<Run> {
        /// BPF_F_TEST_XDP_LIVE_FRAMES
        const LIVE: u32 = 2;
        let end = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let context = Context { data_end: end, interface, ..Context::default() };
        let mut run = TestRun { repeat: count, flags: LIVE, batch: 64, ..TestRun::default() };
        run.context_sizes = [u32::try_from(size_of::<Context>()).map_err(io::Error::other)?, 0];
        run.contexts = [(&raw const context).expose_provenance() as u64, 0];
        self.test(frame, run)
    }

    fn test(&self, frame: &[u8], mut run: TestRun) -> io::Result<Run> {
        /// BPF_PROG_TEST_RUN
        const TEST: i32 = 10;
        run.program = number(&self.0)?;
        run.input_size = u32::try_from(frame.len()).map_err(io::Error::other)?;
        run.input = frame.as_ptr().expose_provenance() as u64;
        bpf(TEST, &mut run)?;
        Ok(Run { verdict: run.verdict, nanoseconds: run.duration })
    }
}

/// Detaches what a program with this id is attached by, whoever attached it, as `bpftool link detach` does.
///
/// # Errors
/// What bpf(2) reports; `NotFound`: there is no such link.
pub fn detach_links_of(program: u32) -> io::Result<()> {
    /// BPF_OBJ_GET_INFO_BY_FD, BPF_LINK_GET_FD_BY_ID, BPF_LINK_GET_NEXT_ID and BPF_LINK_DETACH
    const INFO: i32 = 15;
    const OPEN: i32 = 30;
    const NEXT: i32 = 31;
    const DETACH: i32 = 34;
    /// The part of `union bpf_attr` that asking for information uses.
    #[repr(C)]
    struct Ask {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut at = [0_u32, 0, 0];
    loop {
        bpf(NEXT, &mut at)?;
        let [_, id, _] = at;
        at = [id, 0, 0];
        // It may have gone meanwhile.
        let Ok(link) = bpf(OPEN, &mut [id, 0, 0]).and_then(owned) else { continue };
        // The head of `struct bpf_link_info`: type, id, program.
        let mut info = [0_u32; 16];
        let length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
        let fd = number(&link)?;
        bpf(INFO, &mut Ask { fd, length, info: info.as_mut_ptr().expose_provenance() as u64 })?;
        let [_, _, of, ..] = info;
        if of == program {
            return bpf(DETACH, &mut [fd]).map(drop);
        }
    }
}

/// A socket that sends frames out of one interface as they are.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// In the network namespace of this thread.
    ///
    /// # Errors
    /// What socket(2), bind(2) and setsockopt(2) report.
    pub fn open(interface: u32) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let socket = owned(check(fd)?)?;
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        let length = u32::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the address is a live value of that length.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        let on: libc::c_int = 1;
        let length = u32::try_from(size_of_val(&on)).map_err(io::Error::other)?;
        // SAFETY: the option is a live int of that length.
        check(unsafe {
            let option = (&raw const on).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, option, length)
        })?;
        Ok(Self(socket))
    }

    /// Sends the frames one after the other, and returns how many the kernel took.
    ///
    /// # Errors
    /// What sendmmsg(2) reports before it has taken any.
    pub fn send(&self, frames: &[Vec<u8>]) -> io::Result<usize> {
        let mut taken = 0;
        for batch in frames.chunks(BATCH) {
            let mut parts: Vec<libc::iovec> = batch
                .iter()
                .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = parts
                .iter_mut()
                .map(|part| {
                    // SAFETY: all zeros is a valid message.
                    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                    message.msg_hdr.msg_iov = part;
                    message.msg_hdr.msg_iovlen = 1;
                    message
                })
                .collect();
            let count = u32::try_from(messages.len()).map_err(io::Error::other)?;
            // SAFETY: there are as many messages as that, each of one part, which is a live frame that is only read.
            let sent = unsafe { libc::sendmmsg(self.0.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
            match check(sent) {
                Ok(sent) => taken += usize::try_from(sent).map_err(io::Error::other)?,
                // The queue of the interface is full: the frames are lost, as on a wire.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}

/// Has the kernel answer each bpf(2) of this thread, and of what it starts, with EPERM.
///
/// # Errors
/// What prctl(2) reports.
pub fn refuse_bpf() -> io::Result<()> {
    const fn step(code: u16, jump_true: u8, jump_false: u8, value: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt: jump_true, jf: jump_false, k: value }
    }
    let call = u32::try_from(libc::SYS_bpf).map_err(io::Error::other)?;
    // The number of the call: the first word of `struct seccomp_data`. Is it that one? EPERM, or allowed.
    let mut steps = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, call),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).map_err(io::Error::other)?),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the filter and its steps are live during the call, which copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) })
        .map(drop)
}

/// Closes a connection without a word to its peer, as a host does that loses its power (`TCP_REPAIR`).
///
/// # Errors
/// What setsockopt(2) reports.
pub fn vanish(stream: TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(&stream, (libc::IPPROTO_TCP, libc::TCP_REPAIR), &on)?;
    drop(stream);
    Ok(())
}

/// Sends an option of IP (one that means nothing) with each packet of the connection from now on.
///
/// # Errors
/// What setsockopt(2) reports.
pub fn send_ip_options(stream: &TcpStream) -> io::Result<()> {
    /// Four times "no operation".
    const NOTHING: [u8; 4] = [1; 4];
    set(stream, (libc::IPPROTO_IP, libc::IP_OPTIONS), &NOTHING)
}

fn set<T>(stream: &TcpStream, (level, name): (i32, i32), value: &T) -> io::Result<()> {
    let length = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the option is a live value of that length.
    check(unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    })
    .map(drop)
}

/// Makes an interface without Ethernet in this thread's network namespace; packets go out of it into the file, and come in by it.
///
/// # Errors
/// When there is no `/dev/net/tun`, and what ioctl(2) reports.
pub fn tunnel(name: &str) -> io::Result<File> {
    /// The head of `struct ifreq`.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    for (place, byte) in request.name.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    // SAFETY: the request is a live value of the size of `struct ifreq`.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Asks an interface of this thread's network namespace, or orders it, by a command of ethtool. `words` begins with the command, and
/// must have room for all that the kernel answers.
///
/// # Errors
/// What ioctl(2) reports.
pub(crate) fn ethtool(name: &str, words: &mut [u32]) -> io::Result<()> {
    /// The head of `struct ifreq`.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut u32,
        rest: [u8; 16],
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: words.as_mut_ptr(), rest: [0; 16] };
    for (place, byte) in request.name.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    /// SIOCETHTOOL
    const ETHTOOL: libc::c_ulong = 0x8946;
    // SAFETY: the request is a live value of the size of `struct ifreq`, and points to words that live, with room for the answer by the
    // promise of all callers, which are in `netns/ethtool.rs`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) }).map(drop)
}

/// The number of an interface of this thread's network namespace.
///
/// # Errors
/// When there is none of that name.
pub fn interface_number(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a live C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

fn number(fd: &OwnedFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn check(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Addresses in `attributes` must be of values that live, with the sizes that the command expects.
fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a live value of the size that is passed; all callers are in this file, and give addresses of live
    // values in it.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    i32::try_from(answer).map_err(io::Error::other).and_then(check)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(check(fd)?) })
}
