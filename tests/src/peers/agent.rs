//! An agent that polls a [`Polling`](super::polling::Polling) server for work, as a polling Tentacle does.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};

use super::polling::{NULL, PACKAGE, PACKAGE_STREAM};
use super::tls::{self, Fingerprint, TlsClient, Wire};
use super::{need_line, read_line};
use crate::keyed;

/// What the server had for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Null,
    /// A package of this many bytes, received and checked.
    Package(u64),
}

/// An agent with a connection to its server.
#[derive(Debug)]
pub struct Agent {
    connection: TlsClient,
}

impl Agent {
    /// Opens TLS with the pinned certificate, and introduces the agent as `subscription`.
    ///
    /// # Errors
    /// When TLS fails, when the server has another certificate, or does not answer as a polling server.
    pub fn introduce(
        stream: TcpStream,
        name: Option<&str>,
        pin: Option<Fingerprint>,
        subscription: &str,
    ) -> Result<Self> {
        let mut connection = tls::connect(stream, name, pin)?;
        connection.write_all(b"MX\n\n")?;
        write!(connection, "MX-SUBSCRIBER 1.0 {subscription}\r\n\r\n")?;
        let answer = need_line(&mut connection).context("introducing the agent")?;
        ensure!(answer == "MX-SERVER 1.0", "not a polling server: {answer:?}");
        need_line(&mut connection)?;
        Ok(Self { connection })
    }

    /// Receives one message, does its work, and asks for the next.
    ///
    /// # Errors
    /// When the connection fails, or brings something that the server would not send.
    pub fn poll(&mut self) -> Result<Work> {
        let mut message = [0; 16];
        self.connection.read_exact(&mut message).context("waiting for a message")?;
        let work = if message == NULL { Work::Null } else { self.receive_package(message)? };
        self.connection.write_all(b"NEXT\r\n")?;
        let answer = need_line(&mut self.connection)?;
        ensure!(answer == "PROCEED", "neither work nor PROCEED: {answer:?}");
        Ok(work)
    }

    fn receive_package(&mut self, message: [u8; 16]) -> Result<Work> {
        let Some(length) = message.strip_prefix(&PACKAGE) else { bail!("not a message: {message:?}") };
        let bytes = u64::from_le_bytes(length.try_into()?);
        keyed::receive(&mut self.connection, PACKAGE_STREAM, bytes)?;
        self.connection.write_all(b"RECEIVED\r\n")?;
        Ok(Work::Package(bytes))
    }

    /// Receives the message that is under way, and says goodbye. Returns the counters of the connection.
    ///
    /// # Errors
    /// When the connection fails, or when the server does not end it.
    pub fn leave(mut self) -> Result<Wire> {
        let mut message = [0; 16];
        self.connection.read_exact(&mut message).context("waiting for the last message")?;
        ensure!(message == NULL, "work arrived for an agent that leaves");
        self.connection.write_all(b"END\r\n")?;
        let rest = read_line(&mut self.connection)?;
        ensure!(rest.is_none(), "the server goes on after END: {rest:?}");
        Ok(self.connection.sock)
    }

    /// The TCP connection under TLS.
    pub fn wire(&self) -> &Wire {
        &self.connection.sock
    }

    /// The certificate that the server showed.
    ///
    /// # Errors
    /// When there was none.
    pub fn certificate(&self) -> Result<Fingerprint> {
        tls::certificate_of(&self.connection)
    }
}
