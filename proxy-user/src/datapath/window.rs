//! The receive buffer of a source under the verdict. The kernel tunes it by how fast it is emptied, which the verdict does at
//! once, up to its credit: of a first burst into buffers it would conclude a window of 2 MB, a minute's worth for an agent
//! of 256 kbit/s (measured on Linux 6.18). So it is kept small until the direction has proved to be fast.

use std::io;
use std::net::TcpStream as Socket;
use std::time::Instant;

use proxy_common::abi::sockmap::Direction;
use proxy_common::flow::{RateGate, Turned};

use crate::kernel::Track;
use crate::sys;

/// The receive buffer of a source whose direction is slow. The kernel doubles it, and offers half of that: with the credit and what
/// userspace has in hand about 250 KB may wait for the target.
const SMALL: usize = 96 * 1024;

/// Minds one source.
pub(super) struct Window<'a> {
    track: &'a Track<'a>,
    source: &'a Socket,
    proof: RateGate,
    begun: Instant,
}

impl<'a> Window<'a> {
    /// To be made before the first byte is redirected.
    pub(super) fn new(track: &'a Track<'a>, source: &'a Socket) -> io::Result<Self> {
        let begun = Instant::now();
        let window = Self { track, source, proof: RateGate::new(begun.elapsed()), begun };
        window.keep_small()?;
        Ok(window)
    }

    /// One look, which costs no system call unless something has changed. `behind`: bytes wait for the target.
    pub(super) fn look(&mut self, direction: &Direction, behind: bool) -> io::Result<()> {
        let due = self.proof.due();
        match self.proof.look(self.begun.elapsed(), direction.seen(), behind) {
            Some(Turned::Fast) => {
                self.track.call_at(u64::MAX);
                sys::tune_receive_buffer(self.source)
            }
            Some(Turned::Slow) => self.keep_small(),
            None => {
                if let Some(seen) = self.proof.due().filter(|_| self.proof.due() != due) {
                    self.track.call_at(seen);
                }
                Ok(())
            }
        }
    }

    fn keep_small(&self) -> io::Result<()> {
        sys::force_receive_buffer(self.source, SMALL)?;
        self.track.call_at(self.proof.due().unwrap_or(u64::MAX));
        Ok(())
    }
}
