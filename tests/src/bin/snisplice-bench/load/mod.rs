//! The load generator: clients and servers of one measurement.

pub(crate) mod bulk;
pub(crate) mod connects;
pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod ping;
mod poll;
pub(crate) mod storm;
pub(crate) mod tls;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::deadline::PATIENCE;
use harness::hello::Hello;
use harness::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use self::echo::Echo;
use crate::network::{Path, Service};

/// Where one measurement happens.
pub(crate) struct Stage<'a> {
    pub(crate) path: &'a Path,
    pub(crate) echo: &'a Echo,
    /// The processes of the system that is measured.
    pub(crate) processes: &'a [u32],
    /// How long it is measured.
    pub(crate) window: Duration,
    /// Waits until so many flows are carried as they will be for as long as they last.
    pub(crate) settled: &'a (dyn Fn(usize) -> Result<()> + Sync),
}

/// Connections that may wait to be accepted: more than a storm has.
const BACKLOG: i32 = 8192;

/// What a server says when the hello has arrived.
pub(crate) const GREETING: u8 = b'!';

/// How long before the first figure is taken a load runs.
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);

/// The hello of a client that wants `service`.
pub(crate) fn hello(service: Service) -> Vec<u8> {
    Hello::to(&service.name()).bytes()
}

/// Listens in `server` on all addresses; several sockets may share the port.
pub(crate) fn listen(server: &Namespace, service: Service) -> Result<TcpListener> {
    server.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, service.port())).into())?;
        socket.listen(BACKLOG)?;
        // accept(2) keeps to it as well.
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    })
}

/// Connects to `target` from the namespace of the calling thread, and says hello.
pub(crate) fn open(target: SocketAddr, hello: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connecting")?;
    settle(&stream)?;
    stream.write_all(hello).context("saying hello")?;
    Ok(stream)
}

/// Connects, says hello and waits for the greeting, `count` times, one after the other.
pub(crate) fn open_greeted(path: &Path, service: Service, count: usize) -> Result<Vec<TcpStream>> {
    let hello = hello(service);
    path.client.enter(|| {
        (0..count)
            .map(|number| {
                let mut stream = open(path.target(service), &hello)?;
                let mut greeting = [0];
                stream
                    .read_exact(&mut greeting)
                    .with_context(|| format!("waiting for greeting {number} of {count}"))?;
                Ok(stream)
            })
            .collect()
    })
}

/// No socket of the generator waits for ever, or for more bytes to send.
fn settle(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(())
}
