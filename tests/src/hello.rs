//! TLS ClientHello messages made by hand, for clients that send what no TLS library would send.
//!
//! Formats: RFC 8446 section 4.1.2 (ClientHello) and 5.1 (records), RFC 6066 section 3 (server_name), RFC 7685 (padding).

/// The largest fragment of a TLS record, RFC 8446 section 5.1.
const MAX_FRAGMENT: usize = 16 * 1024;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// TLS 1.0, what a first record says for the sake of old servers.
const RECORD_VERSION: [u8; 2] = [3, 1];
/// TLS 1.2, what every ClientHello says since TLS 1.3.
const HELLO_VERSION: [u8; 2] = [3, 3];

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const PADDING: u16 = 21;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
const PSK_KEY_EXCHANGE_MODES: u16 = 45;
const KEY_SHARE: u16 = 51;

/// A well-formed TLS 1.3 ClientHello.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    name: Option<String>,
    padding: u16,
    identity: Option<u16>,
}

impl Hello {
    /// A hello with this server name, byte by byte as given.
    pub fn to(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }

    /// A hello without the server_name extension.
    pub fn without_name() -> Self {
        Self::default()
    }

    /// Adds a padding extension of `bytes` zeros.
    #[must_use]
    pub fn padded(self, bytes: u16) -> Self {
        Self { padding: bytes, ..self }
    }

    /// Offers a pre-shared key whose identity, such as a ticket, has so many bytes.
    #[must_use]
    pub fn offering_identity(self, bytes: u16) -> Self {
        Self { identity: Some(bytes), ..self }
    }

    /// The hello in as few records as possible.
    pub fn bytes(&self) -> Vec<u8> {
        self.records_of(MAX_FRAGMENT)
    }

    /// The hello cut into records with at most `fragment` bytes of content each.
    pub fn records_of(&self, fragment: usize) -> Vec<u8> {
        self.message().chunks(fragment).flat_map(record).collect()
    }

    /// The handshake message, without a record around it.
    fn message(&self) -> Vec<u8> {
        let mut body = HELLO_VERSION.to_vec();
        body.extend([0x5a; 32]); // random
        body.extend(sized_u8(&[0xa5; 32])); // session id
        body.extend(sized_u16(&[0x13, 0x01, 0x13, 0x02, 0xc0, 0x2b, 0xc0, 0x2f])); // cipher suites
        body.extend(sized_u8(&[0])); // compression methods: null
        body.extend(sized_u16(&self.extensions()));
        let mut message = vec![CLIENT_HELLO];
        message.extend(length_u24(body.len()));
        message.extend(body);
        message
    }

    fn extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(name) = &self.name {
            let mut entry = vec![0]; // host_name
            entry.extend(sized_u16(name.as_bytes()));
            all.extend(extension(SERVER_NAME, &sized_u16(&entry)));
        }
        all.extend(extension(SUPPORTED_GROUPS, &sized_u16(&[0x00, 0x1d, 0x00, 0x17]))); // x25519, secp256r1
        all.extend(extension(SIGNATURE_ALGORITHMS, &sized_u16(&[0x04, 0x03, 0x08, 0x04])));
        all.extend(extension(SUPPORTED_VERSIONS, &sized_u8(&[3, 4, 3, 3])));
        let mut share = vec![0x00, 0x1d];
        share.extend(sized_u16(&[0x77; 32]));
        all.extend(extension(KEY_SHARE, &sized_u16(&share)));
        if self.padding > 0 {
            all.extend(extension(PADDING, &vec![0; usize::from(self.padding)]));
        }
        if let Some(bytes) = self.identity {
            all.extend(extension(PSK_KEY_EXCHANGE_MODES, &sized_u8(&[1]))); // psk_dhe_ke
            let mut identity = sized_u16(&vec![0x42; usize::from(bytes)]);
            identity.extend([0; 4]); // obfuscated_ticket_age
            let mut offered = sized_u16(&identity);
            offered.extend(sized_u16(&sized_u8(&[0x99; 32]))); // binders
            // Must be the last.
            all.extend(extension(PRE_SHARED_KEY, &offered));
        }
        all
    }
}

/// The beginning of a ClientHello that never ends: `bytes` bytes of full records, and a handshake length of 16 MiB.
pub fn endless(bytes: usize) -> Vec<u8> {
    let mut message = vec![CLIENT_HELLO, 0xff, 0xff, 0xff];
    message.extend(HELLO_VERSION);
    message.resize(bytes, 0x5a);
    message.chunks(MAX_FRAGMENT).flat_map(record).collect()
}

/// The fatal alert `unrecognized_name`, RFC 8446 section 6, in a TLS 1.2 record.
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

fn record(fragment: &[u8]) -> Vec<u8> {
    let mut record = vec![HANDSHAKE_RECORD];
    record.extend(RECORD_VERSION);
    record.extend(sized_u16(fragment));
    record
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut extension = kind.to_be_bytes().to_vec();
    extension.extend(sized_u16(data));
    extension
}

fn sized_u8(data: &[u8]) -> Vec<u8> {
    let mut sized = vec![u8::try_from(data.len()).unwrap_or(u8::MAX)];
    sized.extend(data);
    sized
}

fn sized_u16(data: &[u8]) -> Vec<u8> {
    let mut sized = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    sized.extend(data);
    sized
}

fn length_u24(length: usize) -> [u8; 3] {
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [high, middle, low]
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use rustls::server::Acceptor;

    use super::*;

    /// What a TLS library reads as the name: `Err` when the bytes are no whole ClientHello.
    fn name_read_by_rustls(bytes: Vec<u8>) -> Result<Option<String>, String> {
        let mut acceptor = Acceptor::default();
        let mut bytes = Cursor::new(bytes);
        while acceptor.read_tls(&mut bytes).map_err(|error| error.to_string())? > 0 {
            if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error.to_string())? {
                return Ok(accepted.client_hello().server_name().map(str::to_owned));
            }
        }
        Err("the hello is not whole".to_owned())
    }

    #[test]
    fn a_tls_library_reads_the_name() {
        for fragment in [1, 5, 100, MAX_FRAGMENT] {
            let records = Hello::to("polling.example.com").padded(3000).records_of(fragment);
            assert_eq!(name_read_by_rustls(records), Ok(Some("polling.example.com".to_owned())));
        }
        assert_eq!(name_read_by_rustls(Hello::without_name().bytes()), Ok(None));
    }

    #[test]
    fn a_tls_library_reads_a_hello_with_a_large_identity() {
        let records = Hello::to("polling.example.com").offering_identity(60_000).bytes();
        assert_eq!(name_read_by_rustls(records), Ok(Some("polling.example.com".to_owned())));
    }

    #[test]
    fn a_cut_and_an_endless_hello_are_never_whole() {
        let mut cut = Hello::to("polling.example.com").bytes();
        cut.pop();
        assert!(name_read_by_rustls(cut).is_err());
        assert!(name_read_by_rustls(endless(40 * 1024)).is_err());
    }
}
