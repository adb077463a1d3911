//! What the journal tells of a flow, and how a line of it looks.

use proxy_common::abi::packet::{KEY_WORDS, Key};
use serde::{Deserialize, Serialize};

use crate::datapath::packet::negotiated_options::NegotiatedOptions;
use crate::datapath::packet::offload_table::OffloadedFlow;
use crate::sys;

pub(super) type Words = [u32; KEY_WORDS];

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::datapath::packet) struct Note {
    pub(in crate::datapath::packet) keys: [Words; 2],
    /// Not in what an earlier version has written.
    #[serde(default)]
    pub(in crate::datapath::packet) options: Option<NegotiatedOptions>,
    pub(in crate::datapath::packet) listener: String,
    pub(in crate::datapath::packet) sni: Option<Box<str>>,
    pub(in crate::datapath::packet) route: String,
    pub(in crate::datapath::packet) upstream: Option<String>,
    /// How old it was, at this time of the clock that runs since the host was started.
    pub(in crate::datapath::packet) age_ms: u64,
    pub(in crate::datapath::packet) clock_ms: u64,
    pub(in crate::datapath::packet) hello_ms: Option<u32>,
    pub(in crate::datapath::packet) connect_ms: Option<u32>,
}

impl Note {
    pub(in crate::datapath::packet) fn of(offloaded: &OffloadedFlow) -> Self {
        let facts = offloaded.flow.facts().clone();
        Self {
            keys: offloaded.keys.each_ref().map(Key::to_words),
            options: offloaded.options,
            listener: offloaded.flow.listener.to_string(),
            sni: facts.sni,
            route: facts.route.to_string(),
            upstream: facts.upstream.map(|name| name.to_string()),
            age_ms: u64::try_from((offloaded.record.before + offloaded.flow.accepted.elapsed()).as_millis())
                .unwrap_or(0),
            clock_ms: sys::uptime_ms(),
            hello_ms: offloaded.record.hello_ms,
            connect_ms: offloaded.record.connect_ms,
        }
    }
}

/// A line that was read.
#[derive(Deserialize)]
pub(super) enum Line {
    Came(Box<Note>),
    Went(Words),
}

/// The same line, to be written.
#[derive(Serialize)]
pub(super) enum LineOf<'a> {
    Came(&'a Note),
    Went(&'a Words),
}

impl LineOf<'_> {
    pub(super) fn write(&self, text: &mut Vec<u8>) -> std::io::Result<()> {
        serde_json::to_writer(&mut *text, self)?;
        text.push(b'\n');
        Ok(())
    }
}
