//! All clients lose their connections at one moment and come back at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use harness::deadline::PATIENCE;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::poll::Poller;
use super::{GREETING, Stage, hello, open_greeted};
use crate::network::Service;
use crate::values::{Metric, Values};

/// The server closes the connections of `clients` clients; measures the time until all are greeted again.
pub(crate) fn run(stage: &Stage<'_>, clients: usize) -> Result<Values> {
    let streams = open_greeted(stage.path, Service::Echo, clients)?;
    let target = stage.path.target(Service::Echo);
    let (storm, took) = stage.path.client.enter(|| {
        let mut storm = Storm::new(streams, target)?;
        let start = Instant::now();
        stage.echo.close_all()?;
        storm.ride_out()?;
        Ok((storm, start.elapsed()))
    })?;
    let mut values = Values::default();
    values.set(Metric::StormMillis, took.as_secs_f64() * 1e3);
    values.set(Metric::Retries, storm.retries as f64);
    // The next measurement is not to begin while these still end.
    storm.calm_down(stage)?;
    Ok(values)
}

struct Storm {
    poller: Poller,
    clients: Vec<Client>,
    target: SocketAddr,
    hello: Vec<u8>,
    retries: u64,
}

struct Client {
    stream: TcpStream,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Does not know yet that its connection is lost.
    Served,
    Connecting,
    /// Has said hello.
    Waiting,
    Back,
}

impl Storm {
    fn new(streams: Vec<TcpStream>, target: SocketAddr) -> Result<Self> {
        let poller = Poller::new()?;
        let mut clients = Vec::new();
        for (token, stream) in (0..).zip(streams) {
            stream.set_nonblocking(true)?;
            poller.add(&stream, token)?;
            clients.push(Client { stream, state: State::Served });
        }
        Ok(Self { poller, clients, target, hello: hello(Service::Echo), retries: 0 })
    }

    /// Runs until the last client is back.
    fn ride_out(&mut self) -> Result<()> {
        let mut left = self.clients.len();
        let mut ready = Vec::new();
        while left > 0 {
            self.poller.wait(PATIENCE, &mut ready)?;
            ensure!(!ready.is_empty(), "{left} clients have waited for {PATIENCE:?}");
            for token in ready.drain(..) {
                if self.step(token)? {
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    /// True when this client has just come back.
    fn step(&mut self, token: u64) -> Result<bool> {
        let at = usize::try_from(token)?;
        let client = self.clients.get_mut(at).context("an unknown client")?;
        let stepped = match client.state {
            State::Back => client.expect_silence(),
            State::Served => Ok(client.expect_end()),
            State::Connecting => client.say_hello(&self.hello, &self.poller, token),
            State::Waiting => client.expect_greeting(),
        };
        match stepped {
            Ok(next) => {
                let back = next == State::Back && client.state != State::Back;
                client.state = next;
                if next == State::Connecting {
                    client.stream = connect(self.target, &self.poller, token)?;
                }
                Ok(back)
            }
            // Refused or reset in the storm: the client tries again, as real ones do.
            Err(error) if client.state != State::Back => {
                self.retries += 1;
                ensure!(self.retries < 100_000, "too many failures, the last one: {error}");
                client.state = State::Connecting;
                client.stream = connect(self.target, &self.poller, token)?;
                Ok(false)
            }
            Err(error) => Err(error).context("a client that was back has lost its connection"),
        }
    }

    fn calm_down(self, stage: &Stage<'_>) -> Result<()> {
        let clients = self.clients.len() as u64;
        let streams: Vec<TcpStream> = self.clients.into_iter().map(|client| client.stream).collect();
        let counts = stage.echo.counts();
        let greeted = counts.greeted.load(Ordering::Relaxed);
        super::idle::close(streams, stage.echo, counts.ended.load(Ordering::Relaxed).max(greeted - clients))
    }
}

impl Client {
    fn expect_end(&mut self) -> State {
        match self.stream.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => State::Served,
            Ok(1..) => State::Served,
            // Ended or reset: both are a lost connection.
            Ok(0) | Err(_) => State::Connecting,
        }
    }

    fn say_hello(&mut self, hello: &[u8], poller: &Poller, token: u64) -> std::io::Result<State> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        self.stream.write_all(hello)?;
        poller.change(&self.stream, token, EventFlags::IN)?;
        Ok(State::Waiting)
    }

    fn expect_greeting(&mut self) -> std::io::Result<State> {
        let mut greeting = [0];
        match self.stream.read(&mut greeting) {
            Ok(1) if greeting == [GREETING] => Ok(State::Back),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(State::Waiting),
            Err(error) => Err(error),
        }
    }

    fn expect_silence(&mut self) -> std::io::Result<State> {
        match self.stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(State::Back),
            Err(error) => Err(error),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Begins to connect from the namespace of this thread.
fn connect(target: SocketAddr, poller: &Poller, token: u64) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error).context("connecting"),
    }
    let stream = TcpStream::from(socket);
    poller.add_for(&stream, token, EventFlags::OUT)?;
    Ok(stream)
}
