//! What the daemon itself sends to an end of a flow without sockets: a question, or a reset. That may fail: a firewall of this host
//! drops it, the privilege has gone, or memory is short.

use std::io;
use std::sync::atomic::Ordering;

use proxy_common::abi::packet::{Entry, Key};
use proxy_common::flow::Side;
use proxy_common::packet::craft::{Purpose, craft};

use super::PacketDatapath;
use crate::hub::Flow;
use crate::sys;

/// Why an end was not sent what it was to be sent, the client first.
pub(super) type Unsent = [Option<io::Error>; 2];

impl PacketDatapath {
    /// Sends a segment to each end that is `wanted`. What fails is counted, and logged now and then.
    pub(super) fn send(
        &self,
        [client_key, server_key]: &[Key; 2],
        entries: &[Option<Entry>; 2],
        wanted: [bool; 2],
        purpose: Purpose,
    ) -> Unsent {
        let [Some(client), Some(server)] = entries else { return Unsent::default() };
        let [to_client, to_server] = wanted;
        let send = |key: &Key, own, other| {
            let made = craft(purpose, key, own, other, sys::now_ms());
            let bytes = made.bytes.get(..made.len).unwrap_or_default();
            let error =
                sys::send_segment(key.target_address().ip(), key.source_address().ip(), bytes).err()?;
            self.complain(key, purpose, &error);
            Some(error)
        };
        [
            to_client.then(|| send(client_key, client, server)).flatten(),
            to_server.then(|| send(server_key, server, client)).flatten(),
        ]
    }

    fn complain(&self, key: &Key, purpose: Purpose, error: &io::Error) {
        self.packet.unsent.fetch_add(1, Ordering::Relaxed);
        if !self.throttle.is_due() {
            return;
        }
        let what = match purpose {
            Purpose::Probe | Purpose::Search => "a keepalive probe",
            Purpose::Reset => "a reset",
        };
        if is_our_fault(error) {
            tracing::error!(
                peer = %key.source_address(), %error,
                "cannot send {what} to a peer of an offloaded connection; no connection is closed for that; {}", remedy(error)
            );
        } else {
            tracing::warn!(peer = %key.source_address(), %error, "cannot send {what} to a peer of an offloaded connection: no route");
        }
    }
}

/// Whether the host has refused to send. A peer to which nothing leads is not asked either, but that is the network's fault: as for any
/// other connection of the kernel it is silent.
pub(super) fn is_our_fault(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::EADDRNOTAVAIL)
    )
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "let the firewall of this host accept TCP to it in OUTPUT, and give the process CAP_NET_RAW"
        }
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit on open files",
        _ => "free memory, or look at the interface that leads there",
    }
}

/// Has the flow's record, and whoever has ordered its end, say which ends were not told of it.
pub(super) fn note(flow: &Flow, unsent: &Unsent) {
    if let Some(why) = told(unsent) {
        let _ = flow.untold.set(why);
    }
}

/// Which ends were not told, and why. None: all were.
fn told(unsent: &Unsent) -> Option<String> {
    let ends = Side::BOTH.into_iter().zip(unsent);
    let mut failed = ends.filter_map(|(side, error)| error.as_ref().map(|error| (side.name(), error)));
    let (first, error) = failed.next()?;
    let who = if failed.next().is_some() {
        "the client and the upstream".to_owned()
    } else {
        format!("the {first}")
    };
    Some(format!("no reset could be sent to {who}: {error}; each is told when it sends something"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_who_was_not_told() {
        let error = || Some(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(told(&[None, None]), None);
        assert!(told(&[error(), error()]).unwrap().contains("the client and the upstream"));
        assert!(told(&[None, error()]).unwrap().contains("to the upstream: Operation not permitted"));
    }

    #[test]
    fn a_peer_to_which_nothing_leads_is_silent_and_one_that_we_may_not_ask_is_not() {
        assert!(is_our_fault(&io::Error::from_raw_os_error(libc::EPERM)));
        assert!(is_our_fault(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_our_fault(&io::Error::from_raw_os_error(libc::EHOSTUNREACH)));
    }
}
