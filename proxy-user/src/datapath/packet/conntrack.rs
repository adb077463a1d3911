//! The packets of a flow without sockets do not pass netfilter any more: what it knows of the two connections is out of date from
//! then on, and would stay for days. When it gets sockets again, a firewall has to know it again.

use std::sync::atomic::Ordering;

use proxy_common::abi::packet::Key;

use super::PacketDatapath;
use crate::sys;

impl PacketDatapath {
    /// Removes what connection tracking knows of a flow, if there is any.
    pub(super) fn untrack(&self, [client, server]: &[Key; 2]) {
        // As the connections were made: by the client, and by us.
        match sys::untrack([
            (client.source_address(), client.target_address()),
            (server.target_address(), server.source_address()),
        ]) {
            Ok(entries) => drop(self.packet.untracked.fetch_add(entries, Ordering::Relaxed)),
            Err(error) => tracing::debug!(%error, "connection tracking is not here, or does not answer"),
        }
    }

    /// Has connection tracking let the draining sockets have their packets, whatever has gone past it by then.
    pub(super) fn relax(&self, [client, server]: &[Key; 2]) {
        if let Err(error) = sys::relax([
            (client.source_address(), client.target_address()),
            (server.target_address(), server.source_address()),
        ]) {
            tracing::debug!(%error, "connection tracking is not here, or does not answer");
        }
    }

    /// Tells connection tracking that there are these two connections. It would not take them up in the middle if
    /// `net.netfilter.nf_conntrack_tcp_loose` is 0, and takes who speaks first for the one who has made the connection.
    pub(super) fn track(&self, [client, server]: &[Key; 2]) {
        if let Err(error) = sys::track([
            (client.source_address(), client.target_address()),
            (server.target_address(), server.source_address()),
        ]) {
            tracing::debug!(%error, "connection tracking is not here, or does not answer");
        }
    }
}
