//! Upstream servers that run in threads: one service for all their connections.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::ServerConfig;
use socket2::SockRef;

use super::raw::is_reset;
use super::tls::{self, Fingerprint, Identity};
use super::{Duplex, need_line, read_line};
use crate::keyed::{self, read_some};
use crate::netns::{Namespace, set_patience};

/// What a server does with one connection, from its first byte to its end.
pub trait Service: Send + Sync + 'static {
    /// Serves one connection.
    ///
    /// # Errors
    /// When the client breaks the protocol. [`Backend::failures`] shows it.
    fn serve(&self, connection: &mut dyn Duplex) -> Result<()>;
}

/// A server that listens until it is dropped.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    fingerprint: Option<Fingerprint>,
    listener: Arc<TcpListener>,
    failures: Arc<Failures>,
    acceptor: Option<JoinHandle<()>>,
}

/// What went wrong, one line per connection.
#[derive(Debug, Default)]
struct Failures(Mutex<Vec<String>>);

impl Failures {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a failure. A client that vanishes is none: that is what clients do.
    fn note(&self, client: SocketAddr, outcome: Result<()>) {
        if let Err(error) = outcome
            && !error.downcast_ref().is_some_and(is_reset)
        {
            self.lines().push(format!("connection from {client}: {error:#}"));
        }
    }
}

impl Backend {
    /// Serves over TLS.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn tls(net: &Namespace, at: SocketAddr, identity: &Identity, service: impl Service) -> Result<Self> {
        let config = identity.server_config()?;
        let mut backend = Self::start(net, at, service, Some(config))?;
        backend.fingerprint = Some(identity.fingerprint());
        Ok(backend)
    }

    /// Serves over plain TCP.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn plain(net: &Namespace, at: SocketAddr, service: impl Service) -> Result<Self> {
        Self::start(net, at, service, None)
    }

    fn start(
        net: &Namespace,
        at: SocketAddr,
        service: impl Service,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let listener = Arc::new(net.listen(at)?);
        let failures = Arc::default();
        let acceptor = thread::spawn({
            let listener = Arc::clone(&listener);
            let failures = Arc::clone(&failures);
            move || accept_all(&listener, &failures, &Arc::new(service), tls.as_ref())
        });
        Ok(Self { address: at, fingerprint: None, listener, failures, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hash of its certificate; `None` without TLS.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// What went wrong so far, one line per failed connection.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lines().clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the accepting thread; connections go on until their clients leave.
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn accept_all<S: Service>(
    listener: &TcpListener,
    failures: &Arc<Failures>,
    service: &Arc<S>,
    tls: Option<&Arc<ServerConfig>>,
) {
    while let Ok((stream, client)) = listener.accept() {
        let (failures, service, tls) = (Arc::clone(failures), Arc::clone(service), tls.cloned());
        thread::spawn(move || failures.note(client, serve_one(stream, &*service, tls.as_ref())));
    }
}

fn serve_one(stream: TcpStream, service: &impl Service, tls: Option<&Arc<ServerConfig>>) -> Result<()> {
    set_patience(&stream)?;
    match tls {
        Some(config) => service.serve(&mut tls::accept(stream, config)?),
        None => service.serve(&mut { stream }),
    }
}

/// Sends back what it gets.
#[derive(Debug)]
pub struct Echo;

impl Service for Echo {
    fn serve(&self, connection: &mut dyn Duplex) -> Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match read_some(connection, &mut chunk) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(count) => connection.write_all(chunk.split_at(count).0)?,
                Err(error) => return Err(error).context("reading what to echo"),
            }
        }
    }
}

/// Keyed data on request: `GET <stream> <bytes>` is answered by the data, `PUT <stream> <bytes>` and the data by `OK`.
#[derive(Debug)]
pub struct Bulk;

impl Service for Bulk {
    fn serve(&self, connection: &mut dyn Duplex) -> Result<()> {
        while let Some(line) = read_line(connection)? {
            let words: Vec<_> = line.split(' ').collect();
            let [verb, stream, bytes] = words.as_slice() else { bail!("not a request: {line:?}") };
            let (stream, bytes) = (stream.parse()?, bytes.parse()?);
            match *verb {
                "GET" => keyed::send(connection, stream, bytes)?,
                "PUT" => {
                    keyed::receive(connection, stream, bytes)?;
                    connection.write_all(b"OK\n")?;
                }
                _ => bail!("not a request: {line:?}"),
            }
            connection.flush()?;
        }
        Ok(())
    }
}

/// Asks a [`Bulk`] server for `bytes` bytes of `stream`, and checks them.
///
/// # Errors
/// When the connection fails or a byte is wrong.
pub fn download(connection: &mut dyn Duplex, stream: u64, bytes: u64) -> Result<()> {
    writeln!(connection, "GET {stream} {bytes}")?;
    connection.flush()?;
    keyed::receive(connection, stream, bytes)
}

/// Sends `bytes` bytes of `stream` to a [`Bulk`] server, which checks them.
///
/// # Errors
/// When the connection fails or the server does not confirm.
pub fn upload(connection: &mut dyn Duplex, stream: u64, bytes: u64) -> Result<()> {
    writeln!(connection, "PUT {stream} {bytes}")?;
    keyed::send(connection, stream, bytes)?;
    let answer = need_line(connection)?;
    ensure!(answer == "OK", "the server did not confirm the upload: {answer:?}");
    Ok(())
}
