//! Sets of rules as firewalls and container runtimes make them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};

use super::Namespace;
use super::conntrack::{AFTER_ROUTING, BEFORE_ROUTING, OF_THIS_HOST, accepted, dropped, goes_to};
use super::nft::{Chain, Expression, Rule, data, number};

/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN` and so on.
const PRE_ROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;

/// States of `ct state`: bits of a word of this host.
const INVALID: u32 = 1;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// Keys of `meta`.
const IN_NAME: u32 = 6;
const OUT_NAME: u32 = 7;
const PROTOCOL: u32 = 16;

/// A port of the host that a container runtime publishes.
pub const PUBLISHED_PORT: u16 = 18_443;

/// A firewall that lets in what belongs to a connection, and new connections to the daemon's ports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Firewall {
    /// It drops what connection tracking calls invalid also before routing.
    pub before_routing: bool,
    /// The same of what the host itself sends.
    pub output: bool,
}

impl Namespace {
    /// Puts a firewall up; see [`Namespace::remove_rules`].
    ///
    /// # Errors
    /// When the kernel has no nftables, or no connection tracking.
    pub fn raise(&self, firewall: Firewall) -> Result<()> {
        let invalid = || in_state(INVALID, dropped());
        let input = vec![
            invalid(),
            in_state(ESTABLISHED_OR_RELATED, accepted()),
            vec![named(IN_NAME, "lo", true), accepted()],
            of_protocol(1),
            of_protocol(58),
            to_port(443),
            to_port(10_943),
        ];
        let forward = vec![invalid(), in_state(ESTABLISHED_OR_RELATED, accepted())];
        let mut chains = vec![
            (Chain::Filter { hook: INPUT, priority: 0, drops: true }, input),
            (Chain::Filter { hook: FORWARD, priority: 0, drops: true }, forward),
        ];
        for (wanted, hook, priority) in
            [(firewall.before_routing, PRE_ROUTING, -150), (firewall.output, OUTPUT, 0)]
        {
            if wanted {
                chains.push((Chain::Filter { hook, priority, drops: false }, vec![invalid()]));
            }
        }
        self.add_rules(&chains).context("raising a firewall")
    }

    /// The rules that Docker makes for a container at `container` behind a bridge: its own address for what it sends to others, and
    /// [`PUBLISHED_PORT`] of the host for it.
    ///
    /// # Errors
    /// When the kernel has no nftables, or no NAT.
    pub fn publish(&self, bridge: &str, container: SocketAddr) -> Result<()> {
        let SocketAddr::V4(container) = container else { bail!("{container} is no address of IPv4") };
        let [a, b, ..] = container.ip().octets();
        let prefix = [a, b, 0, 0];
        let outside = || named(OUT_NAME, bridge, false);
        let masquerade: Rule = [from_net(prefix), vec![outside(), Expression::new("masq", &[])]].concat();
        let translate = |before: Vec<Expression>| -> Rule {
            let [load, compare] = goes_to(PUBLISHED_PORT);
            let address = Expression::new("immediate", &[number(1, 1), data(2, &container.ip().octets())]);
            let port =
                Expression::new("immediate", &[number(1, 2), data(2, &container.port().to_be_bytes())]);
            // Of the destination, for IPv4.
            let nat = [number(1, 1), number(2, 2), number(3, 1), number(4, 1), number(5, 2), number(6, 2)];
            [to_this_host(), before, vec![load, compare, address, port, Expression::new("nat", &nat)]]
                .concat()
        };
        let forward = vec![
            with(vec![named(OUT_NAME, bridge, true)], in_state(ESTABLISHED_OR_RELATED, accepted())),
            [vec![named(OUT_NAME, bridge, true)], Vec::from(goes_to(container.port())), vec![accepted()]]
                .concat(),
            vec![named(IN_NAME, bridge, true), outside(), accepted()],
        ];
        self.add_rules(&[
            (AFTER_ROUTING, vec![masquerade]),
            (BEFORE_ROUTING, vec![translate(vec![named(IN_NAME, bridge, false)])]),
            (OF_THIS_HOST, vec![translate(Vec::new())]),
            (Chain::Filter { hook: FORWARD, priority: 0, drops: true }, forward),
        ])
        .context("publishing a port")
    }
}

fn with(mut first: Vec<Expression>, rule: Rule) -> Rule {
    first.extend(rule);
    first
}

/// `ct state`: the verdict on packets in one of these states.
fn in_state(states: u32, verdict: Expression) -> Rule {
    vec![
        Expression::new("ct", &[number(1, 1), number(2, 0)]),
        masked(&states.to_ne_bytes()),
        Expression::new("cmp", &[number(1, 1), number(2, 1), data(3, &[0; 4])]),
        verdict,
    ]
}

/// Accepts a protocol.
fn of_protocol(protocol: u8) -> Rule {
    let load = Expression::new("meta", &[number(1, 1), number(2, PROTOCOL)]);
    vec![load, Expression::new("cmp", &[number(1, 1), number(2, 0), data(3, &[protocol])]), accepted()]
}

/// Accepts what goes to a port.
fn to_port(port: u16) -> Rule {
    let [load, compare] = goes_to(port);
    vec![load, compare, accepted()]
}

/// Goes on only for packets of an interface, or only for those of others.
fn named(key: u32, interface: &str, is: bool) -> Expression {
    let mut name = interface.as_bytes().to_vec();
    name.resize(16, 0);
    let load = Expression::new("meta", &[number(2, key), number(1, 1)]);
    load.and(Expression::new("cmp", &[number(1, 1), number(2, u32::from(!is)), data(3, &name)]))
}

/// Goes on only for packets from a network of 16 bits.
fn from_net(prefix: [u8; 4]) -> Rule {
    vec![
        Expression::new("payload", &[number(1, 1), number(2, 1), number(3, 12), number(4, 4)]),
        masked(&[0xff, 0xff, 0, 0]),
        Expression::new("cmp", &[number(1, 1), number(2, 0), data(3, &prefix)]),
    ]
}

/// Goes on only for packets to an address of this host (`fib daddr type local`).
fn to_this_host() -> Rule {
    let load = Expression::new("fib", &[number(1, 1), number(2, 3), number(3, 2)]);
    // `RTN_LOCAL`
    vec![load, Expression::new("cmp", &[number(1, 1), number(2, 0), data(3, &2_u32.to_ne_bytes())])]
}

/// Keeps these bits of register 1.
fn masked(mask: &[u8; 4]) -> Expression {
    let parts = [number(1, 1), number(2, 1), number(3, 4), data(4, mask), data(5, &[0; 4])];
    Expression::new("bitwise", &parts)
}
