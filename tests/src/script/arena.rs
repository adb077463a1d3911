//! A daemon with a route for each flow of a wave, so that every connection at a server is known by its address.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::course::Course;
use super::footprint::{Footprint, empty};
use super::judge::Outcome;
use super::peer::Peer;
use super::play::{Pair, play};
use super::{FLOWS, Part, Script, generate};
use crate::carrier::Carrier;
use crate::daemon::{Access, Config, Daemon, Launch};
use crate::deadline::{PATIENCE, wait_for};
use crate::hello::Hello;
use crate::impair::{Badness, Impaired};
use crate::netns::{Topology, edge};
use crate::site::SHARED_PORT;

/// Seeds that are played at the same time.
pub const WAVE: u64 = 8;

/// Flows of a wave.
const SLOTS: u64 = WAVE * FLOWS;

/// The server's and the raw listener's port of the first slot: below the range that the kernel gives to clients.
const SERVERS: u16 = 12_000;
const RAW: u16 = 14_000;

/// No script takes this long on an idle machine, nor on a bad network, where a lost segment takes 0.2 s and more.
const LIMIT: Duration = Duration::from_secs(40);
const BAD_LIMIT: Duration = Duration::from_secs(120);

/// The question of a peer on a bad network whether the other end is still there: a reset that comes before lost bytes is asked
/// about (RFC 5961), and if that is lost too nobody says it again.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(3)).with_interval(Duration::from_secs(1));

/// A daemon, its network, and the servers.
#[derive(Debug)]
pub struct Arena {
    /// What carries the flows.
    pub carrier: Carrier,
    daemon: Daemon,
    net: Topology,
    listeners: Vec<TcpListener>,
    /// What the daemon held after the first wave: its workers make their own descriptors after it says that it is ready.
    empty: Option<Footprint>,
    log_read: usize,
    /// What makes its network bad; nothing: it is as good as a network can be.
    bad: Vec<Impaired>,
}

/// The place of one flow.
#[derive(Debug, Clone, Copy)]
struct Slot(u16);

impl Slot {
    fn all() -> impl Iterator<Item = Self> {
        (0..u16::try_from(SLOTS).unwrap_or(u16::MAX)).map(Self)
    }

    /// Every fourth flow comes by a listener that needs no hello.
    fn is_raw(self) -> bool {
        self.0 % 4 == 3
    }

    fn name(self) -> String {
        format!("f{}.contract.test", self.0)
    }

    fn hello(self) -> Vec<u8> {
        if self.is_raw() { Vec::new() } else { Hello::to(&self.name()).bytes() }
    }

    fn route(self) -> String {
        if self.is_raw() { format!("listener/r{}", self.0) } else { format!("f{}", self.0) }
    }

    fn entrance(self) -> SocketAddr {
        edge(if self.is_raw() { RAW + self.0 } else { SHARED_PORT })
    }

    fn configure(self, config: Config, carrier: &Carrier) -> Config {
        let upstream = format!("u{}", self.0);
        let config = config.upstream(&upstream, carrier.place.address(SERVERS + self.0));
        if self.is_raw() {
            config.listen_to(&format!("r{}", self.0), &format!("[::]:{}", RAW + self.0), &upstream)
        } else {
            config.route(&self.route(), &self.name(), &upstream)
        }
    }
}

impl Arena {
    /// Starts the servers and the daemon.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn open(carrier: Carrier, launch: &Launch) -> Result<Self> {
        Self::open_with(carrier, launch, |config| config)
    }

    /// Starts them with something more in the daemon's configuration.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn open_with(carrier: Carrier, launch: &Launch, more: impl FnOnce(Config) -> Config) -> Result<Self> {
        let net = Topology::create()?;
        let listeners = carrier.place.of(&net).enter(|| {
            Slot::all()
                .map(|slot| listen(carrier.place.address(SERVERS + slot.0)))
                .collect::<Result<Vec<_>>>()
        })?;
        let config = Config::new().listen("tls", "[::]:443").datapath(carrier.datapath);
        let config = Slot::all().fold(more(config), |config, slot| slot.configure(config, &carrier));
        let daemon = launch.start(&net.edge, &config)?;
        Ok(Self { carrier, daemon, net, listeners, empty: None, log_read: 0, bad: Vec::new() })
    }

    /// Makes its network bad.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn spoil(&mut self, badness: Badness) -> Result<()> {
        self.bad = Impaired::everywhere(&self.net, badness)?;
        // What is accepted has what its listener has.
        self.listeners.iter().try_for_each(keep_alive)
    }

    /// Whether its network is bad, so that a seed is not played the same way twice.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !self.bad.is_empty()
    }

    /// Packets that its network has lost so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn lost(&self) -> Result<u64> {
        self.bad.iter().map(|bad| Ok(bad.done()?[0])).sum()
    }

    /// Plays the flows of [`WAVE`] seeds, `first` and those after it, all at once.
    ///
    /// # Errors
    /// When a flow does not end, when the daemon's counts are not those of its records, and when it keeps something.
    pub fn play(&mut self, first: u64) -> Result<Vec<Outcome>> {
        let before = self.carrier.account(&self.daemon)?;
        let accepted = self.accepted()?;
        let scripts: Vec<(u64, u64, Script)> = Slot::all()
            .map(|slot| {
                let (seed, flow) = (first + u64::from(slot.0) / FLOWS, u64::from(slot.0) % FLOWS);
                (seed, flow, generate(seed, flow, slot.hello().len() as u64))
            })
            .collect();
        let mut pairs = self.connect(&scripts)?;
        let limit = if self.is_bad() { BAD_LIMIT } else { LIMIT };
        play(&mut pairs, limit, || self.daemon.status().is_ok_and(|status| status.connections.active == 0))?;
        let seen: Vec<_> = pairs.into_iter().map(|pair| (pair.client.seen, pair.server.seen)).collect();
        self.daemon.wait_for_idle()?;
        let came = self.accepted()? - accepted;
        ensure!(came == scripts.len() || self.is_bad(), "{came} of {} came", scripts.len());
        let records = self.records(came)?;
        self.carrier.prove(&self.daemon, &before, &records)?;
        match self.empty {
            None => self.empty = Some(empty(&self.daemon, self.carrier.linger())?),
            Some(empty) if self.carrier.linger().is_zero() => empty.wait_for(&self.daemon)?,
            // All of them are waited for once, at the end.
            Some(empty) => empty.wait_for_all_but_entries(&self.daemon)?,
        }
        let outcome = |((slot, (seed, flow, script)), (client, server)): ((Slot, (u64, u64, Script)), _)| {
            let lossy = self.is_bad();
            let mut outcome = Outcome { seed, flow, script, client, server, record: None, lossy };
            outcome.record = record_of(slot, outcome.client.address, &records);
            outcome
        };
        Ok(Slot::all().zip(scripts).zip(seen).map(outcome).collect())
    }

    fn connect(&self, scripts: &[(u64, u64, Script)]) -> Result<Vec<Pair<'_>>> {
        let sockets = self.net.client.enter(|| {
            let connect = |(slot, (_, _, script)): (Slot, &(u64, u64, Script))| {
                connect(slot.entrance(), &script.client)
            };
            Slot::all().zip(scripts).map(connect).collect::<Result<Vec<_>>>()
        })?;
        let mut pairs = Vec::new();
        for (((slot, (seed, flow, script)), socket), listener) in
            Slot::all().zip(scripts).zip(sockets).zip(&self.listeners)
        {
            let stream = 2 * (seed.wrapping_mul(FLOWS) + flow);
            if self.is_bad() {
                keep_alive(&socket)?;
            }
            let (up, down) = (Course::new(slot.hello(), stream), Course::new(Vec::new(), stream + 1));
            let mut client = Peer::new(script.client.clone(), up.clone(), down.clone());
            client.start(socket, true)?;
            let server = Peer::new(script.server.clone(), down, up);
            pairs.push(Pair { client, server, listener, abandoned: false });
        }
        Ok(pairs)
    }

    /// Connections that the daemon has accepted so far.
    fn accepted(&self) -> Result<usize> {
        let accepted = self.daemon.metrics()?.count("snisplice_connections_accepted_total", &[]);
        Ok(usize::try_from(accepted)?)
    }

    /// The access records of the wave.
    fn records(&mut self, flows: usize) -> Result<Vec<Access>> {
        let mut records = Vec::new();
        wait_for("all access records", PATIENCE, || {
            let (fresh, read) = self.daemon.access_after(self.log_read);
            self.log_read = read;
            records.extend(fresh);
            (records.len() >= flows).then_some(())
        })
        .with_context(|| format!("{} records of {flows} flows", records.len()))?;
        ensure!(records.len() == flows, "{} records of {flows} flows", records.len());
        Ok(records)
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// When it keeps something, or does not end in peace.
    pub fn close(self) -> Result<()> {
        if let Some(before) = self.empty {
            empty(&self.daemon, self.carrier.linger())?;
            before.wait_for(&self.daemon)?;
        }
        self.daemon.stop()
    }

    /// The warnings and errors of the daemon.
    pub fn warnings(&self) -> Vec<String> {
        self.daemon.log().into_iter().filter(|line| !line.contains("\"INFO\"")).collect()
    }
}

/// A connection that got no further than the hello has no route yet, and is known by its address.
fn record_of(slot: Slot, client: Option<SocketAddr>, records: &[Access]) -> Option<Access> {
    let route = slot.route();
    let by_route = records.iter().find(|record| record.route.as_deref() == Some(&route));
    let by_address = || {
        let nowhere = |record: &&Access| record.route.as_deref().unwrap_or_default().is_empty();
        let address = client?.to_string();
        records.iter().filter(nowhere).find(|record| record.client == address)
    };
    by_route.or_else(by_address).cloned()
}

fn keep_alive<'s>(socket: impl Into<SockRef<'s>>) -> Result<()> {
    Ok(socket.into().set_tcp_keepalive(&KEEPALIVE)?)
}

fn listen(at: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(at).with_context(|| format!("listening on {at}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection in the making. The receive buffer has to be set before: it decides the scale of the window.
fn connect(to: SocketAddr, part: &Part) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = part.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
        _ => Ok(socket.into()),
    }
}
