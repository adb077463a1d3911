//! What the ends of a flow have agreed on when they connected, and its entries do not say: new sockets have to know.

use proxy_common::abi::packet::Entry;
use proxy_common::packet::eligible::Leg;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::sys;

/// Bits of `tcpi_options` (`include/uapi/linux/tcp.h`).
const STAMPS: u8 = 1;
const SELECTIVE: u8 = 2;

/// The largest segments that every host takes, by IPv4 and IPv6 (RFC 9293, section 3.7.1).
const SMALLEST: [u32; 2] = [536, 1220];

/// See above. Alike on both legs, or the flow would have its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NegotiatedOptions {
    pub(super) stamps: bool,
    pub(super) selective: bool,
    /// The largest segments that each end takes, and that it was told that we do; the client's first. 0: not known.
    pub(super) sizes: [[u32; 2]; 2],
}

impl NegotiatedOptions {
    /// Of sockets in repair mode.
    pub(super) fn of(legs: &[Leg; 2], sockets: &[&TcpStream; 2]) -> Self {
        let [client, server] = legs;
        let [to_client, to_server] = sockets.each_ref().map(|socket| {
            // It is asked once; a flow whose sizes are not known takes small ones.
            sys::most_sent(socket).ok().filter(|most| *most > 0).unwrap_or_else(|| smallest(client.is_ipv6))
        });
        Self {
            stamps: have_stamps(legs),
            selective: client.options & SELECTIVE != 0,
            sizes: [[to_client, client.most_received], [to_server, server.most_received]],
        }
    }

    /// What is always right, where an earlier daemon has left no word of it.
    pub(super) fn unknown([client, server]: [&Entry; 2]) -> Self {
        let most = smallest(!proxy_common::abi::packet::is_ipv4(&client.source));
        Self { stamps: client.stamped != 0 || server.stamped != 0, selective: false, sizes: [[most, 0]; 2] }
    }
}

/// Whether there are time stamps: on both legs, or on none.
pub(super) const fn have_stamps([client, _]: &[Leg; 2]) -> bool {
    client.options & STAMPS != 0
}

const fn smallest(is_ipv6: bool) -> u32 {
    let [four, six] = SMALLEST;
    if is_ipv6 { six } else { four }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::abi::packet::address_of;

    #[test]
    fn what_is_not_known_is_assumed_to_be_the_least() {
        let entry = |text: &str, stamped| Entry {
            source: address_of(text.parse().unwrap()),
            stamped,
            ..Entry::default()
        };
        let known = NegotiatedOptions::unknown([&entry("10.0.0.1", 0), &entry("10.0.0.2", 9)]);
        assert_eq!(known, NegotiatedOptions { stamps: true, selective: false, sizes: [[536, 0]; 2] });
        let known = NegotiatedOptions::unknown([&entry("fd00::1", 0), &entry("fd00::2", 0)]);
        assert_eq!(known, NegotiatedOptions { stamps: false, selective: false, sizes: [[1220, 0]; 2] });
    }
}
