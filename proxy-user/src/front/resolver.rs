//! Looking up the names of servers, on a thread of its own: in `/etc/hosts`, else by DNS as `/etc/resolv.conf` says. A look-up is
//! a task and not a thread, so that a name server that does not answer holds up only those who wait for its names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use proxy_common::precedence::by_precedence;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use crate::hub::{Answer, Hub, Lookup, NameError, Phase, run_again};
use crate::sys;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// More of a file is not read.
const MAX_FILE: u64 = 16 << 20;

/// Names that DNS is asked for at a time, in all and for one upstream. Each takes two questions, which are repeated while there is
/// no answer, and each question a descriptor.
const AT_A_TIME: usize = 8;
const OF_ONE_UPSTREAM: usize = 2;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 32;

/// How long answers are good: of `/etc/hosts`; of DNS at most; that there is none. A change of either file ends all of them.
const OF_HOSTS: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(300);
const NONE: Duration = Duration::from_secs(1);

/// Starts the thread, if a server has a name. It ends when the phase is [`Phase::Stopped`].
pub(crate) fn start(hub: &Arc<Hub>) -> io::Result<()> {
    let Some(mut queue) = hub.names.take_queue().filter(|_| hub.names.are_there()) else { return Ok(()) };
    let hub = Arc::clone(hub);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("names".to_owned()).spawn(move || {
        // Look-ups that are under way go on, whatever becomes of who began them.
        run_again("looking up names of servers", || runtime.block_on(serve(&hub, &mut queue)));
        runtime.shutdown_background();
    })?;
    Ok(())
}

async fn serve(hub: &Arc<Hub>, queue: &mut tokio::sync::mpsc::UnboundedReceiver<Lookup>) {
    let mut system = System::new(hub.config.current().timeouts.connect);
    let mut upstreams: HashMap<Arc<str>, Arc<Semaphore>> = HashMap::new();
    let all = Arc::new(Semaphore::new(AT_A_TIME));
    let mut stopped = std::pin::pin!(hub.phases.reached(Phase::Stopped));
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = hub.names.time_to_look() => {
                if system.refresh() {
                    hub.names.forget();
                }
            }
            Some(mut lookup) = queue.recv() => {
                if system.refresh() {
                    hub.names.forget();
                }
                hub.names.begun(&mut lookup);
                let of_upstream = upstreams.entry(Arc::clone(&lookup.upstream));
                let of_upstream = of_upstream.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_UPSTREAM)));
                let turns = [Arc::clone(of_upstream), Arc::clone(&all)];
                tokio::spawn(look_up(Arc::clone(hub), lookup, system.clone(), turns));
            }
        }
    }
}

async fn look_up(hub: Arc<Hub>, lookup: Lookup, system: System, turns: [Arc<Semaphore>; 2]) {
    let limit = system.limit;
    let (answer, good_for) = match Name::from_ascii(&*lookup.host) {
        Err(error) => (Err(nothing(io::ErrorKind::InvalidInput, &error)), OF_HOSTS),
        Ok(name) => match system.in_hosts(&name) {
            Some(addresses) => (Ok(in_order(addresses)), OF_HOSTS),
            None => {
                let asked = tokio::time::timeout(limit, system.ask(name, turns));
                asked.await.unwrap_or_else(|_| {
                    let text = format!("no name server answered within {limit:?}");
                    (Err(nothing(io::ErrorKind::TimedOut, &text)), NONE)
                })
            }
        },
    };
    tracing::debug!(name = %lookup.host, ?answer, ?good_for, "looked up");
    hub.names.answer(&lookup, answer, good_for);
}

fn nothing(kind: io::ErrorKind, error: &impl ToString) -> NameError {
    NameError { kind, text: error.to_string().into() }
}

fn in_order(mut addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
    addresses.truncate(MAX_ADDRESSES);
    by_precedence(&mut addresses, leads_to);
    addresses.into()
}

/// Whether there is a route. The port is any.
fn leads_to(address: IpAddr) -> bool {
    sys::way_to(SocketAddr::new(address, 53)).is_ok()
}

/// What the files of the system say, as of when they were last read.
#[derive(Clone)]
struct System {
    hosts: Arc<Hosts>,
    /// None: DNS cannot be asked, for this reason.
    resolver: Result<Arc<TokioResolver>, NameError>,
    stamps: [Option<Stamp>; 2],
    /// That a look-up may take.
    limit: Duration,
}

/// By which a change of a file is found.
type Stamp = (SystemTime, u64, u64);

fn stamp(path: &str) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len(), file.ino()))
}

impl System {
    fn new(limit: Duration) -> Self {
        let none = Err(nothing(io::ErrorKind::NotFound, &"DNS is not set up"));
        let mut system = Self { hosts: Arc::default(), resolver: none, stamps: [None, None], limit };
        system.read([stamp(HOSTS), stamp(RESOLV_CONF)]);
        system
    }

    /// Reads the files again if they have changed, and says whether they have.
    fn refresh(&mut self) -> bool {
        let stamps = [stamp(HOSTS), stamp(RESOLV_CONF)];
        let has_changed = stamps != self.stamps;
        if has_changed {
            self.read(stamps);
            tracing::info!("{HOSTS} or {RESOLV_CONF} has changed: names of servers are looked up again");
        }
        has_changed
    }

    fn read(&mut self, stamps: [Option<Stamp>; 2]) {
        let mut hosts = Hosts::default();
        if let Err(error) = read(HOSTS).and_then(|text| hosts.read_hosts_conf(&*text)) {
            tracing::warn!(%error, "cannot read {HOSTS}: only DNS is asked for names of servers");
        }
        self.hosts = Arc::new(hosts);
        self.resolver =
            resolver(self.limit).map(Arc::new).map_err(|error| nothing(io::ErrorKind::Other, &error));
        self.stamps = stamps;
    }

    fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
        let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of);
        let addresses: Vec<_> = found
            .flat_map(|lookup| {
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
            })
            .collect();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    }

    /// Asks DNS, once it is its turn. For how long the answer is good.
    async fn ask(&self, name: Name, turns: [Arc<Semaphore>; 2]) -> (Answer, Duration) {
        let resolver = match &self.resolver {
            Ok(resolver) => Arc::clone(resolver),
            Err(error) => return (Err(error.clone()), NONE),
        };
        let [of_upstream, all] = turns;
        // They are never closed.
        let _turns = (of_upstream.acquire().await, all.acquire().await);
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let addresses: Vec<_> = found.iter().collect();
                if addresses.is_empty() {
                    return (Err(nothing(io::ErrorKind::NotFound, &"the name has no address")), NONE);
                }
                let good_for = found.valid_until().saturating_duration_since(Instant::now());
                (Ok(in_order(addresses)), good_for.min(MAX_TTL))
            }
            Err(error) => (Err(nothing(io::ErrorKind::NotFound, &error)), NONE),
        }
    }
}

/// At most [`MAX_FILE`] of a file. Never waits for one that is none.
fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    if !fs::metadata(&path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

fn resolver(limit: Duration) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let text = read(RESOLV_CONF).map_err(|error| error.to_string());
    let parsed = text.and_then(|text| parse_resolv_conf(text).map_err(|error| error.to_string()));
    let (config, mut options) = parsed.unwrap_or_else(|error| {
        tracing::warn!(%error, "{RESOLV_CONF} names no name server: 127.0.0.1 is asked");
        let near = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (ResolverConfig::from_parts(None, Vec::new(), vec![near]), ResolverOpts::default())
    });
    // The domain of the host counts only if there is no search list (resolv.conf(5)).
    let (search, servers) = (config.search().to_vec(), config.name_servers().to_vec());
    let config = if search.is_empty() { config } else { ResolverConfig::from_parts(None, search, servers) };
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // So that a server that does not answer leaves time for others.
    options.timeout = options.timeout.min(limit / 2);
    // Both are done elsewhere: here, and in `hub::names`.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}
