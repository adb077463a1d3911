//! Random bytes, random records and damaged recordings; and two other parsers to agree with.

use super::usual::inspect;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proxy_common::hello::{ClientHello, Defect, HelloFailure, HostName, Sni, Verdict};
use tls_parser::{SNIType, TlsExtension, parse_tls_handshake_client_hello};

use super::builder::{record, records, unwrap_records};
use super::corpus;
use super::laws;

/// A recording, and the verdict on it.
fn recording() -> impl Strategy<Value = (&'static str, Vec<u8>, Verdict)> {
    prop::sample::select(corpus::all())
}

/// Damage to a stream.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Truncate(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<Index>().prop_map(Damage::Truncate),
        2 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => (any::<Index>(), 1_usize..8).prop_map(|(at, len)| Damage::Remove(at, len)),
    ]
}

impl Damage {
    /// Does the damage within the first `reach` bytes, where the structure is dense.
    fn apply(&self, stream: &mut Vec<u8>, reach: usize) {
        let reach = reach.min(stream.len());
        if reach == 0 {
            return;
        }
        match self {
            Self::Flip(at, bit) => stream[at.index(reach)] ^= 1 << bit,
            Self::Truncate(at) => stream.truncate(at.index(reach)),
            Self::Insert(at, bytes) => {
                let at = at.index(reach);
                stream.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, len) => {
                let at = at.index(reach);
                let end = (at + len).min(stream.len());
                stream.drain(at..end);
            }
        }
    }
}

fn damaged(mut stream: Vec<u8>, damages: &[Damage], reach: usize) -> Vec<u8> {
    damages.iter().for_each(|damage| damage.apply(&mut stream, reach));
    stream
}

/// The first host name according to `tls-parser`, for bodies that it can parse as a whole.
fn oracle(body: &[u8]) -> Option<Option<Vec<u8>>> {
    let (rest, hello) = parse_tls_handshake_client_hello(body).ok()?;
    let mut block = hello.ext.unwrap_or_default();
    if !rest.is_empty() {
        return None;
    }
    let mut name = None;
    while !block.is_empty() {
        let (later, extension) = tls_parser::parse_tls_client_hello_extension(block).ok()?;
        // For types that it does not know, the crate hands back the list before the extension.
        let len = 4 + usize::from(u16::from_be_bytes([block[2], block[3]]));
        if let TlsExtension::SNI(entries) = extension {
            name = entries.iter().find(|(kind, _)| *kind == SNIType::HostName).map(|(_, name)| name.to_vec());
        }
        block = &block[len..];
        assert!(later.len() >= block.len());
    }
    Some(name)
}

/// What rustls makes of the stream: None if it refuses or waits, else the server name in it.
fn rustls_accepts(stream: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = stream;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_owned));
        }
    }
    None
}

/// What rustls accepts is a hello with the same name for us. Only the entries after the first name, which
/// rustls does not walk, may still break it.
fn agrees_with_rustls(stream: &[u8]) {
    let Some(theirs) = rustls_accepts(stream) else { return };
    match (inspect(stream), theirs) {
        (Verdict::Hello(ClientHello { sni: Sni::Name(ours) }), Some(theirs)) => {
            assert_eq!(Ok(ours), HostName::parse(&theirs));
        }
        (Verdict::Hello(_), None) | (Verdict::Unusable(HelloFailure::Broken(Defect::ServerName)), _) => {}
        (ours, theirs) => panic!("{ours:?}, but rustls accepts {theirs:?}"),
    }
}

#[test]
fn rustls_and_tls_parser_read_the_recordings_as_we_do() {
    for (name, stream, verdict) in corpus::all() {
        let Verdict::Hello(ClientHello { sni }) = verdict else { panic!("{name} is a hello") };
        let expected = match sni {
            Sni::Name(host) => Some(host.to_string()),
            _ => None,
        };
        // rustls wants signature_algorithms, which TLS 1.0 did not have.
        let theirs = rustls_accepts(&stream);
        assert_eq!(theirs, (name != "openssl-tls10").then_some(expected), "{name}");
        let parsed = oracle(&unwrap_records(&stream)[4..]).unwrap();
        assert_eq!(parsed.is_some(), !name.contains("no-sni"), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_get_a_stable_verdict(bytes in vec(any::<u8>(), 0..300)) {
        laws::stable(&bytes, 1);
        laws::stable(&[&[22, 3, 1][..], &bytes].concat(), 1);
        laws::stable(&record(&[&[1, 0, 0][..], &bytes, &[0]].concat()), 1);
    }

    #[test]
    fn random_records_give_the_same_name(
        (name, stream, expected) in recording(),
        sizes in vec(prop_oneof![1_usize..10, 1_usize..2000], 1..30),
        more in vec(any::<u8>(), 0..50),
    ) {
        let split = records(&unwrap_records(&stream), &sizes);
        prop_assert_eq!(laws::follow(&split).1, expected.clone(), "{}", name);
        prop_assert_eq!(laws::stable(&[split, more].concat(), 1), expected, "{}", name);
    }

    #[test]
    fn damaged_streams_get_a_stable_verdict(
        (_, stream, _) in recording(),
        damages in vec(damage(), 1..6),
        reach in prop_oneof![Just(60_usize), Just(300), Just(5000)],
    ) {
        let stream = damaged(stream, &damages, reach);
        laws::stable(&stream, 1);
        laws::follow(&stream);
        agrees_with_rustls(&stream);
    }

    /// Damage inside the message, with a length in its header that fits again.
    #[test]
    fn damaged_messages_are_read_as_others_read_them(
        (_, stream, _) in recording(),
        damages in vec(damage(), 1..6),
        size in prop_oneof![Just(16384_usize), 1_usize..400],
    ) {
        let body = damaged(unwrap_records(&stream).split_off(4), &damages, 5000);
        prop_assume!(!body.is_empty());
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        let stream = records(&[&[1], &len[1..], &body].concat(), &[size]);
        let verdict = laws::stable(&stream, 1);
        agrees_with_rustls(&stream);
        if let (Verdict::Hello(hello), Some(theirs)) = (verdict, oracle(&body)) {
            let theirs = theirs.map(|name| HostName::parse(&String::from_utf8_lossy(&name)).ok());
            match hello.sni {
                Sni::Absent => prop_assert_eq!(theirs, None),
                Sni::Name(name) => prop_assert_eq!(theirs, Some(Some(name))),
                Sni::IpLiteral(_) | Sni::Unusable => prop_assert!(theirs.is_none_or(|name| name.is_none())),
            }
        }
    }
}
