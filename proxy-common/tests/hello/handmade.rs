//! Streams that no recorded client sends: old forms, limits, and what is no hello.

use super::usual::{MAX_HANDSHAKE, MAX_PEEK, inspect};
use proxy_common::hello::{ClientHello, Defect, HelloFailure, MaxHello, Sni, Verdict};

use super::builder::{Hello, asks_for, asks_for_none, record, records, server_name, unwrap_records};
use super::corpus;
use super::laws;

fn broken(stream: &[u8], defect: Defect) {
    assert_eq!(laws::stable(stream, 1), Verdict::Unusable(HelloFailure::Broken(defect)));
}

#[test]
fn the_first_two_bytes_tell_tls_from_the_rest() {
    assert_eq!(inspect(&[]), Verdict::Incomplete { need: 1 });
    for first in (0..=u8::MAX).filter(|&first| first != 22) {
        assert_eq!(inspect(&[first]), Verdict::NotTls);
    }
    for major in (0..=u8::MAX).filter(|&major| major != 3) {
        assert_eq!(inspect(&[22, major]), Verdict::NotTls);
    }
    assert!(matches!(inspect(&[22, 3]), Verdict::Incomplete { .. }));
}

#[test]
fn other_protocols_are_not_tls() {
    // The first one is an SSLv2-compatible hello: length with the high bit set, then message type 1.
    for stream in
        [&b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"[..], b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n"]
    {
        assert_eq!(laws::stable(stream, 1), Verdict::NotTls);
    }
}

#[test]
fn a_hello_may_end_before_its_extensions() {
    for version in [0x0300, 0x0301, 0x0302, 0x0303] {
        let old = Hello { version, session: vec![], extensions: None };
        laws::exactly(&record(&old.message()), &asks_for_none(), 1);
    }
}

#[test]
fn versions_do_not_matter() {
    for version in [0x0301, 0x0302, 0x0303, 0x0304, 0x03ff, 0x0a0a, 0x7f1c] {
        let mut stream = record(&Hello { version, ..Hello::new("a.example") }.message());
        for minor in 0..=4 {
            stream[2] = minor;
            assert_eq!(inspect(&stream), asks_for("a.example"));
        }
    }
}

#[test]
fn a_name_that_cannot_be_used_still_makes_a_hello() {
    let unusable = Verdict::Hello(ClientHello { sni: Sni::Unusable });
    for name in [&b""[..], b"a\0b", b"\xc3\xbc.example", b"a..b", b"a b", &[b'a'; 254]] {
        let hello = Hello { extensions: Some(vec![server_name(name)]), ..Hello::new("") };
        laws::exactly(&record(&hello.message()), &unusable, 1);
    }
}

#[test]
fn a_hello_may_be_as_long_as_the_limit() {
    let message = Hello::new("a.example").padded_to(MAX_HANDSHAKE);
    for size in [16384, 16383, 8000, 1000, 17] {
        laws::exactly(&records(&message, &[size]), &asks_for("a.example"), 7);
    }
    let mut longer = Hello::new("a.example").padded_to(MAX_HANDSHAKE + 1);
    assert_eq!(laws::stable(&records(&longer, &[16384]), 7), Verdict::Unusable(HelloFailure::TooLarge));
    assert_eq!(
        inspect(&records(&longer, &[16384])[..9]),
        Verdict::Unusable(HelloFailure::TooLarge),
        "its header is enough"
    );
    longer[1..4].fill(0xff);
    assert_eq!(inspect(&records(&longer, &[1])[..24]), Verdict::Unusable(HelloFailure::TooLarge));
}

/// As one with a ticket of 21 KiB for a pre-shared key.
#[test]
fn the_limit_can_be_set() {
    for (bytes, kib) in [(21 * 1024, 22), (60_000, 64)] {
        let message = Hello::new("a.example").padded_to(bytes);
        for stream in [records(&message, &[16384]), records(&message, &[1000])] {
            assert_eq!(inspect(&stream), Verdict::Unusable(HelloFailure::TooLarge));
            let max = MaxHello::new(kib * 1024);
            let inspect = |bytes: &[u8]| proxy_common::hello::inspect(bytes, max);
            assert_eq!(inspect(&stream), asks_for("a.example"));
            let one_less = inspect(&stream[..stream.len() - 1]);
            assert_eq!(one_less, Verdict::Incomplete { need: stream.len() });
        }
    }
    assert_eq!([0, 1 << 20].map(MaxHello::new), [MaxHello::MIN, MaxHello::MAX]);
}

#[test]
fn a_hello_must_end_within_the_peek_limit() {
    // Records of one byte: 6 bytes on the wire for each byte of the message.
    let longest = MAX_PEEK / 6;
    let stream = |len: usize| records(&Hello::new("a.example").padded_to(len - 4), &[1]);
    laws::exactly(&stream(longest), &asks_for("a.example"), 101);
    let over = stream(longest + 1);
    assert!(over.len() > MAX_PEEK);
    assert_eq!(laws::stable(&over, 101), Verdict::Unusable(HelloFailure::TooLarge));
    let decided = (0..over.len())
        .find(|&len| inspect(&over[..len]) == Verdict::Unusable(HelloFailure::TooLarge))
        .unwrap();
    assert!(decided <= MAX_PEEK, "known only after {decided} bytes");
}

#[test]
fn the_peek_limit_is_exact() {
    // Five lengths in a row, so that one stream ends at the limit and one a byte after it.
    for len in MAX_HANDSHAKE - 4..=MAX_HANDSHAKE {
        let message = Hello::new("a.example").padded_to(len);
        // So many records of one byte, then one with the rest: 5 bytes more on the wire for each record.
        let stream = |small: usize| [records(&message[..small], &[1]), record(&message[small..])].concat();
        let fits = (MAX_PEEK - message.len()) / 5 - 1;
        assert!(stream(fits).len() <= MAX_PEEK && stream(fits + 1).len() > MAX_PEEK);
        laws::exactly(&stream(fits), &asks_for("a.example"), 211);
        assert_eq!(laws::stable(&stream(fits + 1), 211), Verdict::Unusable(HelloFailure::TooLarge));
    }
}

#[test]
fn records_that_break_the_protocol_are_told_apart() {
    let message = Hello::new("a.example").message();
    let (head, tail) = message.split_at(20);
    let after_head = |bad: &[u8]| [&record(head)[..], bad, &record(tail)].concat();
    let alert = [21, 3, 3, 0, 2, 1, 0];
    broken(&after_head(&alert), Defect::RecordType);
    broken(&after_head(&[20, 3, 3, 0, 1, 1]), Defect::RecordType);
    broken(&after_head(&[0x80, 0x2e, 1, 3, 1]), Defect::RecordType);
    broken(&after_head(&[22, 2, 1, 0, 1, 0]), Defect::RecordVersion);
    broken(&after_head(&record(&[])), Defect::EmptyRecord);
    broken(&record(&[]), Defect::EmptyRecord);
    broken(&after_head(&[22, 3, 1, 0x40, 1, 0]), Defect::RecordLength);
    broken(&[22, 3, 1, 0xff, 0xff, 1], Defect::RecordLength);
}

#[test]
fn only_a_client_hello_may_come_first() {
    for kind in (0..=u8::MAX).filter(|&kind| kind != 1) {
        let mut message = Hello::new("a.example").message();
        message[0] = kind;
        assert_eq!(
            inspect(&record(&message)),
            Verdict::Unusable(HelloFailure::Broken(Defect::HandshakeType))
        );
        assert_eq!(
            inspect(&record(&message)[..6]),
            Verdict::Unusable(HelloFailure::Broken(Defect::HandshakeType))
        );
    }
}

#[test]
fn lengths_that_do_not_fit_break_the_hello() {
    broken(&record(&[1, 0, 0, 37]), Defect::Body);
    let mut session = Hello::new("a.example").message();
    session[38] = 33;
    broken(&record(&session), Defect::Body);
    let mut message = Hello::new("a.example").with(99, vec![1, 2, 3]).message();
    let last_extension = message.len() - 4;
    message[last_extension] += 1;
    broken(&record(&message), Defect::Extensions);
    let bad_list = Hello { extensions: Some(vec![(0, vec![0, 9, 0, 0, 1, 65])]), ..Hello::new("") };
    broken(&record(&bad_list.message()), Defect::ServerName);
    // The name says that it is one byte shorter than its list: that byte is no entry.
    let mut short_name = server_name(b"a.example").1;
    short_name[4] -= 1;
    let short_name = Hello { extensions: Some(vec![(0, short_name)]), ..Hello::new("") };
    broken(&record(&short_name.message()), Defect::ServerName);
    let twice = Hello::new("a.example").with(0, server_name(b"b.example").1);
    broken(&record(&twice.message()), Defect::ServerName);
}

#[test]
fn what_follows_the_hello_in_its_record_does_not_matter() {
    let mut content = unwrap_records(&corpus::load("openssl-tls13"));
    content.extend([0x14, 0, 0, 1, 0]);
    assert_eq!(laws::stable(&record(&content), 1), asks_for("polling.example.com"));
}
