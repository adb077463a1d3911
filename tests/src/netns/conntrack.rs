//! Connection tracking, NAT and a firewall in a namespace.

use anyhow::{Context as _, Result, ensure};

use super::Namespace;
use super::nft::{Chain, Expression, data, number, verdict};

/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING`, and where NAT stands in them.
pub(super) const BEFORE_ROUTING: Chain = Chain::Nat { hook: 0, priority: -100 };
pub(super) const OF_THIS_HOST: Chain = Chain::Nat { hook: 3, priority: -100 };
pub(super) const AFTER_ROUTING: Chain = Chain::Nat { hook: 4, priority: 100 };

impl Namespace {
    /// Has all connections of the namespace tracked, by a rule that asks for the state of packets in a chain that none comes to.
    ///
    /// # Errors
    /// When the kernel has no nftables, or no connection tracking.
    pub fn track_connections(&self) -> Result<()> {
        // The state of the packet into register 1.
        let state = Expression::new("ct", &[number(1, 1), number(2, 0)]);
        self.add_rule(Chain::Apart, &[state]).context("tracking connections")
    }

    /// Has connections from others to one port go to another one of this host, as `redirect to :PORT` does.
    ///
    /// # Errors
    /// When the kernel has no NAT.
    pub fn redirect(&self, from: u16, to: u16) -> Result<()> {
        self.redirect_at(BEFORE_ROUTING, from, to)
    }

    /// The same of connections of this host, to whatever address.
    ///
    /// # Errors
    /// When the kernel has no NAT.
    pub fn redirect_own(&self, from: u16, to: u16) -> Result<()> {
        self.redirect_at(OF_THIS_HOST, from, to)
    }

    fn redirect_at(&self, chain: Chain, from: u16, to: u16) -> Result<()> {
        let redirect = Expression::new("redir", &[number(1, 1)]);
        let [load, compare] = goes_to(from);
        self.add_rule(chain, &[load, compare, port(to), redirect]).context("redirecting a port")
    }

    /// Has connections of this host to one port come from another port than their sockets have, as `masquerade to :PORT` does.
    ///
    /// # Errors
    /// When the kernel has no NAT.
    pub fn masquerade(&self, to: u16, from: u16) -> Result<()> {
        // Of its flags `NF_NAT_RANGE_PROTO_SPECIFIED`.
        let masquerade = Expression::new("masq", &[number(1, 2), number(2, 1), number(3, 1)]);
        let [load, compare] = goes_to(to);
        self.add_rule(AFTER_ROUTING, &[load, compare, port(from), masquerade]).context("masquerading")
    }

    /// Drops all packets that the namespace's own programs send, as a firewall with that policy for OUTPUT does: they are told `EPERM`.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn drop_output(&self) -> Result<()> {
        let chain = Chain::Filter { hook: 3, priority: 0, drops: false };
        self.add_rule(chain, &[dropped()]).context("dropping what the host sends")
    }

    /// Lines about tracked TCP connections that contain all of `words`.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn tracked(&self, words: &[String]) -> Result<Vec<String>> {
        let output = self.command("cat").arg("/proc/net/nf_conntrack").output()?;
        ensure!(output.status.success(), "the kernel does not list tracked connections");
        let text = String::from_utf8(output.stdout)?;
        let has = |line: &str, word: &String| line.split_whitespace().any(|other| other == word);
        let found = text.lines().filter(|line| words.iter().all(|word| has(line, word)));
        Ok(found.map(str::to_owned).collect())
    }
}

/// The verdict, into its register: `NF_DROP` and `NF_ACCEPT`.
pub(super) fn dropped() -> Expression {
    Expression::new("immediate", &[number(1, 0), verdict(2, 0)])
}

pub(super) fn accepted() -> Expression {
    Expression::new("immediate", &[number(1, 0), verdict(2, 1)])
}

/// Goes on only for packets to this port: the third and fourth byte of the transport header.
pub(super) fn goes_to(port: u16) -> [Expression; 2] {
    let load = Expression::new("payload", &[number(1, 1), number(2, 2), number(3, 2), number(4, 2)]);
    [load, Expression::new("cmp", &[number(1, 1), number(2, 0), data(3, &port.to_be_bytes())])]
}

/// A port into register 1.
pub(super) fn port(port: u16) -> Expression {
    Expression::new("immediate", &[number(1, 1), data(2, &port.to_be_bytes())])
}
