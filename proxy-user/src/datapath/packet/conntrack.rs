//! The packets of a flow without sockets do not pass netfilter any more: what it knows of the two connections is out of date from
//! then on, and would stay for days.

use std::sync::atomic::Ordering;

use proxy_common::abi::packet::Key;

use super::Road;
use super::lot::{source, target};
use crate::sys;

impl Road {
    /// Removes what connection tracking knows of a flow, if there is any.
    pub(super) fn untrack(&self, [client, server]: &[Key; 2]) {
        // As the connections were made: by the client, and by us.
        match sys::untrack([(source(client), target(client)), (target(server), source(server))]) {
            Ok(entries) => drop(self.packet.untracked.fetch_add(entries, Ordering::Relaxed)),
            Err(error) => tracing::debug!(%error, "connection tracking is not here, or does not answer"),
        }
    }
}
