//! Recorded hellos: `tests/corpus` of the workspace, where a README says how each was recorded.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use super::usual::inspect;
use proxy_common::hello::{ClientHello, Sni, Verdict};

use super::builder::{asks_for, asks_for_none, records, unwrap_records};
use super::laws;

/// The recordings that ask for polling.example.com, sorted.
const WITH_NAME: [&str; 15] = [
    "curl",
    "curl_cffi-chrome150",
    "curl_cffi-chrome99",
    "curl_cffi-firefox147",
    "curl_cffi-safari2601",
    "gnutls",
    "java17",
    "openssl-tls10",
    "openssl-tls12",
    "openssl-tls13",
    "python-ssl",
    "rustls-ech-grease",
    "rustls-ring",
    "rustls-three-records",
    "rustls-x25519mlkem768",
];

/// The recordings without a server name, sorted.
const WITHOUT_NAME: [&str; 3] = ["openssl-tls12-no-sni", "openssl-tls13-no-sni", "rustls-no-sni"];

/// The recording that asks for 192.0.2.7.
const WITH_ADDRESS: &str = "openssl-ip-literal";

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus"))
}

/// One recording.
pub fn load(name: &str) -> Vec<u8> {
    fs::read(directory().join(name).with_extension("bin")).unwrap()
}

/// Every recording, and the verdict on it.
pub fn all() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let named = WITH_NAME.map(|name| (name, asks_for("polling.example.com")));
    let unnamed = WITHOUT_NAME.map(|name| (name, asks_for_none()));
    let address = Sni::IpLiteral(IpAddr::from([192, 0, 2, 7]));
    let address = (WITH_ADDRESS, Verdict::Hello(ClientHello { sni: address }));
    let all = named.into_iter().chain(unnamed).chain([address]);
    all.map(|(name, verdict)| (name, load(name), verdict)).collect()
}

#[test]
fn every_recording_is_in_the_lists() {
    let mut found: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    let mut listed: Vec<&str> = all().iter().map(|&(name, ..)| name).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn every_prefix_waits_and_the_whole_names_the_server() {
    for (name, stream, expected) in all() {
        println!("{name}");
        laws::exactly(&stream, &expected, 1);
        let (looks, verdict) = laws::follow(&stream);
        assert_eq!(verdict, expected, "{name}");
        assert!(looks <= 7, "{name} took {looks} looks");
    }
}

#[test]
fn every_split_into_two_records_gives_the_same() {
    for (name, stream, expected) in all() {
        let message = unwrap_records(&stream);
        for at in 1..message.len() {
            let split = records(&message, &[at, message.len() - at]);
            assert_eq!(inspect(&split), expected, "{name} split at {at}");
            assert_eq!(laws::follow(&split).1, expected, "{name} split at {at}");
        }
    }
}

#[test]
fn small_records_give_the_same() {
    for (name, stream, expected) in all() {
        let message = unwrap_records(&stream);
        for size in 1..=6 {
            println!("{name} in records of {size}");
            laws::exactly(&records(&message, &[size]), &expected, 1);
        }
    }
}
