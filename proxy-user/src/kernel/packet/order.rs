//! What is ordered of a flow that has no sockets.

use std::io;

use proxy_common::abi::packet::{Answer, Command, Key, Request};

use super::Packet;
use crate::sys;

impl Packet {
    /// Packets of the flow whose client's packets have this key are held for a while: noted, and dropped.
    pub(crate) fn hold(&self, client: &Key) -> io::Result<Answer> {
        self.order(Command::Hold, client)
    }

    /// They are forwarded again.
    pub(crate) fn resume(&self, client: &Key) -> io::Result<Answer> {
        self.order(Command::Resume, client)
    }

    /// They are the stack's from now on, which has sockets for them; unless they have been held for so long that they are
    /// forwarded again, or are about to be.
    pub(crate) fn free(&self, client: &Key) -> io::Result<Answer> {
        self.order(Command::Free, client)
    }

    /// They are answered with resets, and the entries say which end knows.
    pub(crate) fn end(&self, client: &Key) -> io::Result<Answer> {
        self.order(Command::End, client)
    }

    fn order(&self, command: Command, client: &Key) -> io::Result<Answer> {
        sys::run_program(&self.control, &Request::bytes_for(command, client)).map(Answer::from_code)
    }
}
