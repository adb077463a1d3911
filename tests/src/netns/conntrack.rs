//! Connection tracking in a namespace, without a program that makes rules.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// `NFNL_SUBSYS_NFTABLES`, messages of it and of nfnetlink.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 1 << 15;
const NAME: &[u8] = b"snis\0";

impl Namespace {
    /// Has all connections of the namespace tracked, by a rule that asks for the state of packets in a chain that none comes to.
    ///
    /// # Errors
    /// When the kernel has no nftables, or no connection tracking.
    pub fn track_connections(&self) -> Result<()> {
        // The state of the packet into register 1.
        let state = [attribute(1, &1_u32.to_be_bytes()), attribute(2, &0_u32.to_be_bytes())].concat();
        let expression = [attribute(1, b"ct\0"), attribute(2 | NESTED, &state)].concat();
        let expressions = attribute(4 | NESTED, &attribute(1 | NESTED, &expression));
        let batch = [
            message(BATCH_BEGIN, REQUEST, &[0, 0, 0, 10]),
            message(NEW_TABLE, REQUEST | CREATE, &[&inet(), &attribute(1, NAME)[..]].concat()),
            message(
                NEW_CHAIN,
                REQUEST | CREATE,
                &[&inet(), &attribute(1, NAME)[..], &attribute(3, NAME)].concat(),
            ),
            message(
                NEW_RULE,
                REQUEST | CREATE | ACK,
                &[&inet(), &attribute(1, NAME)[..], &attribute(2, NAME), &expressions].concat(),
            ),
            message(BATCH_END, REQUEST, &[0, 0, 0, 10]),
        ];
        self.enter(|| {
            let netlink = Domain::from(libc::AF_NETLINK);
            let mut socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))?;
            socket.write_all(&batch.concat())?;
            let mut answer = [0; 1024];
            let size = socket.read(&mut answer)?;
            let code = answer.get(16..size).and_then(|body| body.first_chunk().copied());
            let code = code.map(i32::from_ne_bytes).context("a short answer")?;
            ensure!(code == 0, "connections cannot be tracked: {}", io::Error::from_raw_os_error(-code));
            Ok(())
        })
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
