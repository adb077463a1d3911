//! What must hold of a flow, whatever carried it.

use std::fmt;
use std::net::SocketAddr;

use super::{Ends, Out, Script, Side};
use crate::daemon::Access;
use crate::peers::raw::Ending;

/// What one peer saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// It had a connection.
    pub connected: bool,
    /// Its own address.
    pub address: Option<SocketAddr>,
    /// Bytes that its socket took.
    pub written: u64,
    /// Bytes that it read.
    pub received: u64,
    /// It has ended its stream in order.
    pub finished: bool,
    /// How its peer's stream ended, if it lived to see that.
    pub ending: Option<Ending>,
    /// What should never be: wrong bytes, errors that are neither an end nor a reset.
    pub complaint: Option<String>,
    /// What happened, and when.
    pub transcript: Vec<String>,
}

/// A flow that was played.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed of its batch.
    pub seed: u64,
    /// Its number in the batch.
    pub flow: u64,
    /// What the peers were told to do.
    pub script: Script,
    /// What the client saw.
    pub client: Seen,
    /// What the server saw.
    pub server: Seen,
    /// What the daemon said of it.
    pub record: Option<Access>,
    /// Its network lost packets.
    pub lossy: bool,
}

impl Outcome {
    fn seen(&self, side: Side) -> &Seen {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// What does not depend on how fast who was, so that two datapaths must agree on it.
    pub fn essence(&self) -> String {
        let reason = self.record.as_ref().map(|record| record.reason.as_str());
        match self.script.ends {
            Ends::InOrder { .. } => {
                let bytes = self.record.as_ref().map(|record| (record.bytes_in, record.bytes_out));
                let ends = [&self.client, &self.server].map(|seen| (seen.received, seen.ending));
                format!("{ends:?} {bytes:?} {reason:?}")
            }
            // How far the bytes got before a cut is a race, also without anything in between.
            Ends::Cut { by } if self.script.part(by).finishes() => String::new(),
            Ends::Cut { by: Side::Server } => format!("{:?} {reason:?}", self.client.ending),
            Ends::Cut { by: Side::Client } => {
                format!("{:?}", self.server.ending.filter(|_| self.is_established()))
            }
        }
    }

    /// The client sent more than a hello before it cut, so that every daemon has a flow.
    fn is_established(&self) -> bool {
        self.script.client.out.iter().any(|step| matches!(step, Out::AwaitBytes(1..) | Out::AwaitUnread))
    }

    /// Whether the daemon may not be able to splice it: a side may have ended before the hand-over.
    pub fn may_be_copied(&self) -> bool {
        !matches!(self.script.ends, Ends::InOrder { .. }) || !self.waits_before_it_ends()
    }

    /// The daemon may not have heard of it: a client that resets before the last segment of its handshake has arrived never came.
    fn may_be_unknown(&self) -> bool {
        self.lossy && self.script.ends == (Ends::Cut { by: Side::Client }) && !self.server.connected
    }

    /// Both sides live until they have heard from each other.
    fn waits_before_it_ends(&self) -> bool {
        [Side::Client, Side::Server].into_iter().all(|side| {
            self.script.part(side).out.iter().any(|step| matches!(step, Out::AwaitBytes(1..) | Out::AwaitEnd))
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "flow {} of seed {}: {}", self.flow, self.seed, self.script)?;
        for (name, seen) in [("client", &self.client), ("server", &self.server)] {
            writeln!(f, "  {name} saw {:?}; complaint: {:?}", seen.ending, seen.complaint)?;
            for line in &seen.transcript {
                writeln!(f, "    {line}")?;
            }
        }
        write!(f, "  record: {:?}", self.record)
    }
}

/// Everything that is wrong with a flow.
pub fn judge(outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    for seen in [&outcome.client, &outcome.server] {
        wrong.extend(seen.complaint.clone());
    }
    for (writer, reader) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
        wrong.extend(end_of(outcome, writer, reader));
    }
    match outcome.script.ends {
        Ends::InOrder { first } => wrong.extend(in_order(outcome, first)),
        Ends::Cut { by } => wrong.extend(after_cut(outcome, by)),
    }
    match &outcome.record {
        None if outcome.may_be_unknown() => {}
        None => wrong.push("it has no access record".to_owned()),
        Some(record) => {
            wrong.extend(counts(outcome, record));
            wrong.extend(blame(record));
        }
    }
    wrong
}

/// A reason that names a side is put down to that side.
fn blame(record: &Access) -> Option<String> {
    let named =
        ["client", "upstream"].into_iter().find(|side| record.reason.starts_with(&format!("{side}_")))?;
    (record.side.as_deref() != Some(named))
        .then(|| format!("the reason is {}, the side {:?}", record.reason, record.side))
}

/// An end is seen only of a stream that was ended, and after its last byte.
fn end_of(outcome: &Outcome, writer: Side, reader: Side) -> Option<String> {
    let (wrote, read) = (outcome.seen(writer), outcome.seen(reader));
    if read.received > wrote.written {
        return Some(format!("{reader:?} received {} of {} bytes", read.received, wrote.written));
    }
    let is_whole = wrote.finished && read.received == wrote.written;
    (read.ending == Some(Ending::Eof) && !is_whole)
        .then(|| format!("{reader:?} saw an end after {} of {} bytes", read.received, wrote.written))
}

fn in_order(outcome: &Outcome, first: Option<Side>) -> Vec<String> {
    let mut wrong = Vec::new();
    for side in [Side::Client, Side::Server] {
        let seen = outcome.seen(side);
        if seen.ending != Some(Ending::Eof) || !seen.finished {
            wrong.push(format!("{side:?} should have seen an end: {:?}", seen.ending));
        }
        if seen.written != outcome.script.part(side).bytes() {
            wrong.push(format!("{side:?} wrote {} bytes only", seen.written));
        }
    }
    if let Some(record) = &outcome.record {
        if record.reason != "eof"
            || (record.bytes_in, record.bytes_out) != (outcome.client.written, outcome.server.written)
        {
            wrong.push("the record is not that of a flow that ended in order".to_owned());
        }
        if first.is_some_and(|first| record.side.as_deref() != Some(first.word())) {
            wrong.push(format!("{first:?} ended first, the record says {:?}", record.side));
        }
    }
    wrong
}

fn after_cut(outcome: &Outcome, by: Side) -> Vec<String> {
    let mut wrong = Vec::new();
    let victim = if by == Side::Client { Side::Server } else { Side::Client };
    let (seen, finished) = (outcome.seen(victim), outcome.script.part(by).finishes());
    let may_see_end = finished && seen.ending == Some(Ending::Eof);
    if seen.connected && seen.ending != Some(Ending::Reset) && !may_see_end {
        wrong.push(format!("{victim:?} should have seen a reset: {:?}", seen.ending));
    }
    let reasons: &[&str] = match by {
        Side::Client => &["client_reset", "client_gone", "hello_reset"],
        Side::Server => &["upstream_reset"],
    };
    if let Some(record) = &outcome.record {
        let reason = record.reason.as_str();
        let is_end = finished && matches!(reason, "eof" | "hello_eof");
        if !is_end && !reasons.contains(&reason) {
            wrong.push(format!("{by:?} cut it, the record says {reason}"));
        }
    }
    wrong
}

/// What the daemon says it gave to a peer is at least what that peer read, and at most what the other wrote.
fn counts(outcome: &Outcome, record: &Access) -> Vec<String> {
    let (client, server) = (&outcome.client, &outcome.server);
    let mut wrong = Vec::new();
    if !(server.received..=client.written).contains(&record.bytes_in) {
        wrong.push(format!("bytes_in is {}, {} of {}", record.bytes_in, server.received, client.written));
    }
    if !(client.received..=server.written).contains(&record.bytes_out) {
        wrong.push(format!("bytes_out is {}, {} of {}", record.bytes_out, client.received, server.written));
    }
    wrong
}
