//! Rules of nftables in a namespace, without the program that makes them.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// `NFNL_SUBSYS_NFTABLES`, messages of it and of nfnetlink.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_APPEND.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 1 << 15;
const NAME: &[u8] = b"snis\0";

/// One thing that a rule does.
#[derive(Clone)]
pub(super) struct Expression(Vec<u8>);

/// What a rule does, one after the other.
pub(super) type Rule = Vec<Expression>;

impl Expression {
    pub(super) fn new(name: &str, attributes: &[Vec<u8>]) -> Self {
        let name = attribute(1, format!("{name}\0").as_bytes());
        let expression = [name, attribute(2 | NESTED, &attributes.concat())].concat();
        Self(attribute(1 | NESTED, &expression))
    }

    /// This, and then that.
    pub(super) fn and(mut self, mut other: Self) -> Self {
        self.0.append(&mut other.0);
        self
    }
}

/// The chain that a rule is in.
pub(super) enum Chain {
    /// No packet comes to it.
    Apart,
    /// NAT, at this hook.
    Nat { hook: u32, priority: i32 },
    /// A filter at this hook. `drops`: what no rule says anything about.
    Filter { hook: u32, priority: i32, drops: bool },
}

impl Namespace {
    /// Makes a table with one chain and one rule.
    pub(super) fn add_rule(&self, chain: Chain, rule: &[Expression]) -> Result<()> {
        self.add_rules(&[(chain, vec![rule.to_vec()])])
    }

    /// Makes a table with chains, at most one of a kind at a hook, and their rules.
    pub(super) fn add_rules(&self, chains: &[(Chain, Vec<Rule>)]) -> Result<()> {
        let table = [&inet(), &attribute(1, NAME)[..]].concat();
        let mut messages = vec![message(NEW_TABLE, REQUEST | CREATE, &table)];
        for (chain, rules) in chains {
            messages.push(message(NEW_CHAIN, REQUEST | CREATE, &[&inet(), &chain.attributes()[..]].concat()));
            for rule in rules {
                let expressions: Vec<u8> = rule.iter().flat_map(|expression| expression.0.clone()).collect();
                let rule = [attribute(1, NAME), chain.name(2), attribute(4 | NESTED, &expressions)].concat();
                messages.push(message(NEW_RULE, REQUEST | CREATE | APPEND, &[&inet(), &rule[..]].concat()));
            }
        }
        // One answer is waited for: that to the last message, or an error.
        if let Some(flags) = messages.last_mut().and_then(|last| last.get_mut(6)) {
            *flags |= u8::try_from(ACK)?;
        }
        self.commit(&messages)
    }

    /// Removes that table.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_rules(&self) -> Result<()> {
        self.commit(&[message(DELETE_TABLE, REQUEST | ACK, &[&inet(), &attribute(1, NAME)[..]].concat())])
    }

    fn commit(&self, messages: &[Vec<u8>]) -> Result<()> {
        let begin = message(BATCH_BEGIN, REQUEST, &[0, 0, 0, 10]);
        let end = message(BATCH_END, REQUEST, &[0, 0, 0, 10]);
        let batch = [&begin[..], &messages.concat(), &end].concat();
        self.enter(|| {
            let netlink = Domain::from(libc::AF_NETLINK);
            let mut socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))?;
            socket.write_all(&batch)?;
            let mut answer = [0; 1024];
            let size = socket.read(&mut answer)?;
            let code = answer.get(16..size).and_then(|body| body.first_chunk().copied());
            let code = code.map(i32::from_ne_bytes).context("a short answer")?;
            ensure!(code == 0, "the kernel refuses the rule: {}", io::Error::from_raw_os_error(-code));
            Ok(())
        })
    }
}

impl Chain {
    /// Its name, as an attribute of this kind.
    fn name(&self, kind: u16) -> Vec<u8> {
        let name = match self {
            Self::Apart => "apart\0".to_owned(),
            Self::Nat { hook, .. } => format!("nat-{hook}\0"),
            Self::Filter { hook, .. } => format!("filter-{hook}\0"),
        };
        attribute(kind, name.as_bytes())
    }

    fn attributes(&self) -> Vec<u8> {
        let mut all = [attribute(1, NAME), self.name(3)].concat();
        let (hook, priority, kind, drops) = match self {
            Self::Apart => return all,
            Self::Nat { hook, priority } => (*hook, *priority, &b"nat\0"[..], false),
            Self::Filter { hook, priority, drops } => (*hook, *priority, &b"filter\0"[..], *drops),
        };
        let hook = [attribute(1, &hook.to_be_bytes()), attribute(2, &priority.to_be_bytes())].concat();
        // `NF_DROP` is 0, and `NF_ACCEPT` 1.
        let policy = number(5, u32::from(!drops));
        all.extend([attribute(4 | NESTED, &hook), policy, attribute(7, kind)].concat());
        all
    }
}

/// A number in network order.
pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// Bytes as data of an expression.
pub(super) fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, &attribute(1, value))
}

/// A verdict as data of an expression.
pub(super) fn verdict(kind: u16, code: u32) -> Vec<u8> {
    attribute(kind | NESTED, &attribute(2 | NESTED, &number(1, code)))
}

/// `struct nfgenmsg` for both families.
const fn inet() -> [u8; 4] {
    [1, 0, 0, 0]
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let mut all = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    all.extend(value);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}
