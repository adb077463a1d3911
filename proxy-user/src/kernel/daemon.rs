//! What the kernel does for this daemon as a whole.

use std::fmt;
use std::sync::{Arc, OnceLock};

use proxy_common::plan::{Host, Use};

use super::{Local, Packet, Sockmap, Unavailable};

/// Why splicing is no longer available.
pub(crate) const LOST: &str = "the sockmap datapath is lost: something else has detached its BPF program, and it cannot be attached again; it is tried again each second";

/// What the kernel does for this daemon.
pub(crate) struct Kernel {
    pub(crate) sockmap: Result<Sockmap, Unavailable>,
    /// Why `auto` does not splice, though sockmap is available. None: it does.
    pub(crate) caution: Option<Unavailable>,
    /// None: no upstream of the configuration is on this host.
    pub(crate) local: Option<Result<Local, Unavailable>>,
    /// None: no upstream of the configuration names it.
    pub(crate) packet: Option<Result<Arc<Packet>, Unavailable>>,
    /// Why `auto` does not offload, though the configuration asks for it. None: it does, or is not asked to.
    pub(crate) packet_caution: Option<Unavailable>,
    /// For connections that an earlier daemon has left, found later.
    pub(crate) left: OnceLock<Result<Arc<Packet>, Unavailable>>,
}

impl Kernel {
    /// What flows may be carried by.
    pub(crate) fn host(&self) -> Host {
        let sockmap = match (&self.sockmap, &self.caution) {
            (Ok(_), None) => Use::Always,
            (Ok(_), Some(_)) => Use::ByName,
            (Err(_), _) => Use::Unavailable,
        };
        let local = match &self.local {
            Some(Ok(Local { noticed: None })) => sockmap,
            Some(Ok(Local { noticed: Some(_) })) => Use::ByName,
            Some(Err(_)) | None => Use::Unavailable,
        };
        let packet = self.packet().is_some_and(|packet| packet.takes_new);
        Host { sockmap, local, packet }
    }

    /// What carries flows that have left their sockets.
    pub(crate) fn packet(&self) -> Option<&Arc<Packet>> {
        self.found()?.as_ref().ok()
    }

    /// None: the configuration asks for no offloading, and no connection is offloaded.
    pub(crate) fn found(&self) -> Option<&Result<Arc<Packet>, Unavailable>> {
        self.packet.as_ref().or_else(|| self.left.get())
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("sockmap", &self.sockmap.is_ok()).finish()
    }
}
