//! Builds `ClientHello` messages and the records that carry them.

use proxy_common::hello::{ClientHello, HostName, Sni, Verdict};

/// Type of the extension that fills up the hello (RFC 7685).
pub const PADDING: u16 = 21;

/// The parts of a hello that the tests vary.
pub struct Hello {
    pub version: u16,
    pub session: Vec<u8>,
    /// Type and content. None: the hello ends before the list.
    pub extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Hello {
    /// A hello that asks for `name`.
    pub fn new(name: &str) -> Self {
        Self { version: 0x0303, session: vec![7; 32], extensions: Some(vec![server_name(name.as_bytes())]) }
    }

    /// The same with one more extension.
    pub fn with(mut self, kind: u16, content: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().push((kind, content));
        self
    }

    /// The handshake message, with its header.
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([0x5a; 32]);
        body.push(u8::try_from(self.session.len()).unwrap());
        body.extend(&self.session);
        body.extend(list(&[0x13, 0x01, 0xc0, 0x2f]));
        body.extend([1, 0]);
        if let Some(extensions) = &self.extensions {
            let block = extensions
                .iter()
                .flat_map(|(kind, content)| [&kind.to_be_bytes(), &list(content)[..]].concat());
            body.extend(list(&block.collect::<Vec<u8>>()));
        }
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &len[1..], &body].concat()
    }

    /// The message filled up so that its body has `len` bytes.
    pub fn padded_to(self, len: usize) -> Vec<u8> {
        let body = self.message().len() - 4;
        self.with(PADDING, vec![0; len - body - 4]).message()
    }
}

/// A server name extension with one host name.
pub fn server_name(name: &[u8]) -> (u16, Vec<u8>) {
    (0, list(&[&[0], &list(name)[..]].concat()))
}

/// A two-byte length and the content.
pub fn list(content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap();
    [&len.to_be_bytes(), content].concat()
}

/// One handshake record.
pub fn record(content: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &list(content)[..]].concat()
}

/// `message` in records of the given sizes, in turn and again from the first; none of them 0.
pub fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = message;
    for &size in sizes.iter().cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        stream.extend(record(now));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    stream
}

/// The contents of all records in `stream`, which holds whole ones only.
pub fn unwrap_records(stream: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = stream;
    while let [_, _, _, high, low, more @ ..] = rest {
        let (content, later) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(content);
        rest = later;
    }
    assert!(rest.is_empty());
    message
}

/// The verdict on a hello that asks for `name`.
pub fn asks_for(name: &str) -> Verdict {
    Verdict::Hello(ClientHello { sni: Sni::Name(HostName::parse(name).unwrap()) })
}

/// The verdict on a hello without a server name.
pub fn asks_for_none() -> Verdict {
    Verdict::Hello(ClientHello { sni: Sni::Absent })
}
