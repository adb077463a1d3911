//! TLS for peers: self-signed certificates, servers, and clients that pin a certificate.
//!
//! As the peers that matter do, nothing here sends close_notify: a connection just ends.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rcgen::CertifiedKey;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};

use crate::keyed::read_some;

/// A TLS connection on the client's side.
pub type TlsClient = StreamOwned<ClientConnection, Wire>;
/// A TLS connection on the server's side.
pub type TlsServer = StreamOwned<ServerConnection, Wire>;

/// The SHA-256 hash of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(hash)
    }

    /// The fingerprint of the first certificate in a PEM text; other text around it is skipped.
    ///
    /// # Errors
    /// When there is no certificate in the text.
    pub fn of_pem(text: &str) -> Result<Self> {
        Ok(Self::of(&CertificateDer::from_pem_slice(text.as_bytes()).context("no certificate in the text")?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A server's certificate and key, self-signed.
pub struct Identity {
    certified: CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    /// Makes a new key and a certificate for `name`.
    ///
    /// # Errors
    /// When `name` is not a host name.
    pub fn for_name(name: &str) -> Result<Self> {
        Ok(Self { certified: rcgen::generate_simple_self_signed([name.to_owned()])? })
    }

    /// The hash by which clients know this server.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.certified.cert.der())
    }

    /// The certificate and the key in PEM.
    pub fn pem(&self) -> String {
        self.certified.cert.pem() + &self.certified.signing_key.serialize_pem()
    }

    /// A server's configuration with this identity. It issues no tickets, so that all bytes of a server are
    /// answers to its client.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let key = PrivatePkcs8KeyDer::from(self.certified.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certified.cert.der().clone()], key.into())?;
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Opens TLS on a connection. `name` is what the hello says, `None` for no server name; `pin` the only certificate
/// that is accepted, `None` for any.
///
/// # Errors
/// When the handshake fails, above all for another certificate than the pinned one.
pub fn connect(stream: TcpStream, name: Option<&str>, pin: Option<Fingerprint>) -> Result<TlsClient> {
    let verifier = Arc::new(Pinned { pin, provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.enable_sni = name.is_some();
    let server = ServerName::try_from(name.unwrap_or("nameless.invalid").to_owned())?;
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config), server)?, Wire::new(stream));
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).context("TLS handshake of the client")?;
    }
    Ok(tls)
}

/// Answers TLS on a connection.
///
/// # Errors
/// When the handshake fails.
pub fn accept(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<TlsServer> {
    let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(config))?, Wire::new(stream));
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).context("TLS handshake of the server")?;
    }
    Ok(tls)
}

/// The certificate that the server showed.
///
/// # Errors
/// When there was none.
pub fn certificate_of(client: &TlsClient) -> Result<Fingerprint> {
    match client.conn.peer_certificates() {
        Some([certificate, ..]) => Ok(Fingerprint::of(certificate)),
        _ => bail!("the server showed no certificate"),
    }
}

/// A TCP connection that counts what passes: the bytes of a TLS connection as the daemon sees them.
#[derive(Debug)]
pub struct Wire {
    /// The connection itself.
    pub stream: TcpStream,
    /// Bytes read so far.
    pub received: u64,
    /// Bytes written so far.
    pub sent: u64,
}

impl Wire {
    /// Starts counting at zero.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, received: 0, sent: 0 }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_some(&mut self.stream, buffer)?;
        self.received += count as u64;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = loop {
            match self.stream.write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => break answer?,
            }
        };
        self.sent += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Knows a server by its certificate alone, without names or authorities.
#[derive(Debug)]
struct Pinned {
    pin: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint::of(certificate);
        match self.pin {
            Some(pin) if pin != seen => Err(Error::General(format!(
                "the server's certificate is {seen} and not {pin}: a wrong route?"
            ))),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
