//! The server of all scenarios but bulk: swallows the hello, greets with one byte, and echoes what follows.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::poll::Poller;
use super::{GREETING, hello, listen};
use crate::network::{Path, Service};

const LISTENER: u64 = 0;
const ORDERS: u64 = 1;
const FIRST_FLOW: u64 = 2;

/// Connections that are accepted before those that are open are served again.
const BURST: usize = 64;

/// A wait without an event; orders wake the server, so that this is only a bound.
const LONG: Duration = Duration::from_secs(5);

const QUIT: u8 = b'q';
const CLOSE_ALL: u8 = b'c';

/// A running server: one thread for each processor, each with a listening socket of its own.
#[derive(Debug)]
pub(crate) struct Echo {
    threads: Vec<(UnixStream, Option<JoinHandle<Result<()>>>)>,
    counts: Arc<Counts>,
}

/// What the server has seen.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections whose hello arrived whole.
    pub(crate) greeted: AtomicU64,
    /// Bytes after the hello.
    pub(crate) echoed: AtomicU64,
    /// Connections that ended.
    pub(crate) ended: AtomicU64,
}

impl Echo {
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let counts = Arc::<Counts>::default();
        let workers = thread::available_parallelism()?.get();
        let threads = (0..workers).map(|_| {
            let listener = listen(&path.server, Service::Echo)?;
            let (ours, orders) = UnixStream::pair()?;
            let server = Server::new(listener, orders, Arc::clone(&counts))?;
            Ok((ours, Some(thread::spawn(move || server.run()))))
        });
        Ok(Self { threads: threads.collect::<Result<_>>()?, counts })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Closes all connections.
    pub(crate) fn close_all(&self) -> Result<()> {
        self.order(CLOSE_ALL)
    }

    /// Ends the server.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.order(QUIT)?;
        for (_, thread) in &mut self.threads {
            let thread = thread.take().ok_or_else(|| anyhow!("stopped twice"))?;
            thread.join().map_err(|_| anyhow!("the echo server panicked"))??;
        }
        Ok(())
    }

    fn order(&self, order: u8) -> Result<()> {
        self.threads.iter().try_for_each(|(orders, _)| Ok((&*orders).write_all(&[order])?))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // After `stop` nobody listens any more.
        drop(self.order(QUIT));
    }
}

/// One thread of the server.
struct Server {
    poller: Poller,
    listener: TcpListener,
    orders: UnixStream,
    flows: HashMap<u64, Flow>,
    next: u64,
    hello: Vec<u8>,
    counts: Arc<Counts>,
}

struct Flow {
    stream: TcpStream,
    /// Bytes of the hello that have not come yet.
    hello_left: usize,
}

impl Server {
    fn new(listener: TcpListener, orders: UnixStream, counts: Arc<Counts>) -> Result<Self> {
        let poller = Poller::new()?;
        listener.set_nonblocking(true)?;
        poller.add(&listener, LISTENER)?;
        poller.add(&orders, ORDERS)?;
        let hello = hello(Service::Echo);
        Ok(Self { poller, listener, orders, flows: HashMap::new(), next: FIRST_FLOW, hello, counts })
    }

    fn run(mut self) -> Result<()> {
        let mut ready = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            self.poller.wait(LONG, &mut ready)?;
            for token in ready.drain(..) {
                match token {
                    LISTENER => self.accept()?,
                    ORDERS => {
                        let mut order = [QUIT];
                        self.orders.read_exact(&mut order)?;
                        if order == [QUIT] {
                            return Ok(());
                        }
                        self.counts.ended.fetch_add(self.flows.len() as u64, Ordering::Relaxed);
                        self.flows.clear();
                    }
                    flow => self.serve(flow, &mut buffer),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..BURST {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The peer was faster.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.poller.add(&stream, self.next)?;
            self.flows.insert(self.next, Flow { stream, hello_left: self.hello.len() });
            self.next += 1;
        }
        Ok(())
    }

    fn serve(&mut self, token: u64, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get_mut(&token) else { return };
        match flow.stream.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(count @ 1..) if flow.answer(buffer.split_at(count).0, &self.counts).is_ok() => {}
            _ => {
                self.flows.remove(&token);
                self.counts.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Flow {
    /// Requests are smaller than any send buffer, so that an answer that does not fit is a fault.
    fn answer(&mut self, bytes: &[u8], counts: &Counts) -> std::io::Result<()> {
        let (hello, request) = bytes.split_at(self.hello_left.min(bytes.len()));
        if !hello.is_empty() {
            self.hello_left -= hello.len();
            if self.hello_left == 0 {
                counts.greeted.fetch_add(1, Ordering::Relaxed);
                self.stream.write_all(&[GREETING])?;
            }
        }
        if !request.is_empty() {
            counts.echoed.fetch_add(request.len() as u64, Ordering::Relaxed);
            self.stream.write_all(request)?;
        }
        Ok(())
    }
}
