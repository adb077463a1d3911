//! Signals that nobody should send us. By default each of them ends the process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, sigset_t};

/// Those with a name. Left alone are those that mean something (TERM, INT, HUP), those of a fault in the program itself, and
/// QUIT, which asks for a core dump.
const STRAY: [(c_int, &str); 10] = [
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
];

/// A signal that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) name: String,
    /// The process that sent it, and its user. None: the kernel did.
    pub(crate) sender: Option<(u32, u32)>,
}

/// From here on they wait to be read, in this thread and those that it starts.
pub(crate) fn hold_stray_signals() -> io::Result<()> {
    let set = stray();
    // SAFETY: `set` is a valid set, and no old one is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Reads the signals that wait.
pub(crate) struct Signals(OwnedFd);

impl Signals {
    pub(crate) fn open() -> io::Result<Self> {
        let set = stray();
        // SAFETY: `set` is a valid set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made the descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next one, or None if none waits.
    pub(crate) fn next(&self) -> Option<Stray> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most `size` bytes, which is what `info` has.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(read) != Ok(size) {
            return None;
        }
        // SAFETY: plain numbers, zeroed before, and all of them written by the kernel.
        let info = unsafe { info.assume_init() };
        let by_process = matches!(info.ssi_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
        Some(Stray {
            name: name(c_int::try_from(info.ssi_signo).unwrap_or(0)),
            sender: by_process.then_some((info.ssi_pid, info.ssi_uid)),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn name(signal: c_int) -> String {
    let known = STRAY.into_iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()), |(_, name)| name.to_owned())
}

fn stray() -> sigset_t {
    let mut set = MaybeUninit::<sigset_t>::zeroed();
    let signals = STRAY.into_iter().map(|(number, _)| number).chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    // SAFETY: `set` is ours; sigemptyset makes it valid, and sigaddset changes a valid one, or nothing if it does not know
    // the signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_signal_is_read_with_its_sender() {
        let own = std::process::id();
        // In a thread of its own, so that the mask is that of this test only.
        let seen = std::thread::spawn(|| {
            hold_stray_signals().unwrap();
            let signals = Signals::open().unwrap();
            assert_eq!(signals.next(), None);
            let sent = [libc::SIGUSR1, libc::SIGRTMIN() + 3].map(|signal| {
                // SAFETY: sends a signal to this thread, which holds it.
                unsafe { libc::pthread_kill(libc::pthread_self(), signal) }
            });
            assert_eq!(sent, [0, 0]);
            [signals.next(), signals.next(), signals.next()]
        });
        let [first, second, third] = seen.join().unwrap();
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!([first.name, second.name], ["SIGUSR1", "SIGRTMIN+3"]);
        assert_eq!(first.sender.map(|(process, _)| process), Some(own));
        assert_eq!(third, None);
    }
}
