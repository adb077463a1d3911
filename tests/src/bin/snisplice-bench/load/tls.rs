//! Real TLS at both ends: what users of a proxy see, crypto included.

use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::deadline::dawdle;
use harness::peers::tls::{self, Identity, TlsClient, TlsServer};
use rustls::ServerConfig;
use socket2::SockRef;

use super::bulk::Line;
use super::{Stage, WARM_UP, listen, settle};
use crate::network::{Path, Service, check_congestion};
use crate::stats;
use crate::values::{Metric, Values};

/// A server that knows its certificate.
struct Server {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    identity: Identity,
}

impl Server {
    fn start(path: &Path) -> Result<Self> {
        let identity = Identity::for_name(&Service::Tls.name())?;
        let config = identity.server_config()?;
        Ok(Self { listener: listen(&path.server, Service::Tls)?, config, identity })
    }

    fn accept(&self) -> Result<TlsServer> {
        let (stream, _) = self.listener.accept().context("waiting for a client")?;
        settle(&stream)?;
        tls::accept(stream, &self.config)
    }

    /// Connects from the namespace of this thread.
    fn connect(&self, path: &Path) -> Result<TlsClient> {
        let stream = super::open(path.target(Service::Tls), &[])?;
        check_congestion(&stream)?;
        tls::connect(stream, Some(&Service::Tls.name()), Some(self.identity.fingerprint()))
    }
}

/// One download over TLS.
pub(crate) fn bulk(stage: &Stage<'_>) -> Result<Values> {
    let server = &Server::start(stage.path)?;
    let (mut from, mut to) = thread::scope(|scope| {
        let accepted = scope.spawn(|| server.accept());
        let connected = stage.path.client.enter(|| server.connect(stage.path));
        let accepted = accepted.join().map_err(|_| anyhow!("the server panicked"))?;
        Ok::<_, anyhow::Error>((accepted?, connected?))
    })?;
    let wires = [from.sock.stream.try_clone()?, to.sock.stream.try_clone()?];
    let line = &Line::default();
    thread::scope(|scope| {
        let sender = scope.spawn(move || line.send(&mut from, None));
        let receiver = scope.spawn(move || line.receive(&mut to));
        let measured = line.measure(|| {
            dawdle(stage.window);
            Ok(())
        });
        line.stop();
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?.and_then(|()| line.settle());
        wires.iter().for_each(|wire| drop(wire.shutdown(Shutdown::Both)));
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        sent?;
        Ok(measured?.1)
    })
}

/// Handshakes one after the other, each on a new connection and without resumption.
pub(crate) fn handshakes(stage: &Stage<'_>) -> Result<Values> {
    let server = &Server::start(stage.path)?;
    let over = &AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Err(error) = server.accept()
                    && !over.load(Ordering::Relaxed)
                {
                    return Err(error);
                }
            }
            Ok(())
        });
        let times = stage.path.client.enter(|| shake_hands(server, stage));
        over.store(true, Ordering::Relaxed);
        // Ends the wait for the next client.
        SockRef::from(&server.listener).shutdown(Shutdown::Both)?;
        accepting.join().map_err(|_| anyhow!("the server panicked"))??;
        times
    })?;
    ensure!(!times.is_empty(), "no handshake ended within {:?}", stage.window);
    times.sort_by(f64::total_cmp);
    let mut values = Values::default();
    values.set(Metric::HandshakeP50, stats::quantile(&times, 0.5));
    values.set(Metric::HandshakeP99, stats::quantile(&times, 0.99));
    Ok(values)
}

/// Milliseconds from the call of connect(2) to the end of each handshake.
fn shake_hands(server: &Server, stage: &Stage<'_>) -> Result<Vec<f64>> {
    let counted_from = Instant::now() + WARM_UP;
    let end = counted_from + stage.window;
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        drop(server.connect(stage.path)?);
        let now = Instant::now();
        if now >= end {
            return Ok(times);
        }
        if now >= counted_from {
            times.push(Duration::as_secs_f64(&(now - start)) * 1e3);
        }
    }
}
