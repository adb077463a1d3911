//! The site that most tests are about: a polling server and a web application behind one port.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::carrier::{Carrier, Place};
use crate::daemon::{Config, Daemon, Launch};
use crate::hello::Hello;
use crate::netns::{Topology, backend, edge};
use crate::peers::agent::Agent;
use crate::peers::backend::Backend;
use crate::peers::polling::Polling;
use crate::peers::raw::RawListener;
use crate::peers::tls::{self, Identity, TlsClient};
use crate::peers::web::Web;

/// The name by which agents reach the polling server on the shared port.
pub const POLLING_NAME: &str = "polling.octopus.test";
/// The name of the web application.
pub const WEB_NAME: &str = "octopus.test";
/// The shared port of the edge.
pub const SHARED_PORT: u16 = 443;
/// The polling server's port, and that of the edge's listener for old agents.
pub const POLLING_PORT: u16 = 10943;
/// The web application's port on the backend.
pub const WEB_PORT: u16 = 8443;

/// The configuration of a site, without the parts that a test may want to change.
pub fn config() -> Config {
    config_at(Place::Backend)
}

/// The configuration of a site whose flows `carrier` carries.
pub fn config_of(carrier: &Carrier) -> Config {
    config_at(carrier.place).datapath(carrier.datapath)
}

fn config_at(place: Place) -> Config {
    Config::new()
        .listen("tls", "[::]:443")
        .listen_to("legacy", "[::]:10943", "octopus-polling")
        .route("polling", POLLING_NAME, "octopus-polling")
        .default_route("web", "octopus-web")
        .upstream("octopus-polling", place.address(POLLING_PORT))
        .upstream("octopus-web", place.address(WEB_PORT))
}

/// The hello of a client that wants the polling server.
pub fn polling_hello() -> Vec<u8> {
    Hello::to(POLLING_NAME).bytes()
}

/// A site with real TLS servers.
#[derive(Debug)]
pub struct Site {
    /// The daemon at the edge.
    pub daemon: Daemon,
    /// The polling server.
    pub polling: Backend,
    /// The polling server's queues.
    pub queues: Polling,
    /// The web application.
    pub web: Backend,
    /// The network.
    pub net: Topology,
}

impl Site {
    /// Starts the servers and then the daemon.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn start(config: &Config) -> Result<Self> {
        Self::launch(config, &Launch::new()?)
    }

    /// Like [`Site::start`], with a daemon started in a way of its own.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn launch(config: &Config, launch: &Launch) -> Result<Self> {
        let net = Topology::create()?;
        let queues = Polling::new(Duration::from_millis(20));
        let (polling, web) = (Identity::for_name(POLLING_NAME)?, Identity::for_name(WEB_NAME)?);
        let polling = Backend::tls(&net.backend, backend(POLLING_PORT), &polling, queues.clone())?;
        let web = Backend::tls(&net.backend, backend(WEB_PORT), &web, Web)?;
        let daemon = launch.start(&net.edge, config)?;
        Ok(Self { daemon, polling, queues, web, net })
    }

    /// A new agent that reaches the polling server by `name` on `port` of the edge.
    ///
    /// # Errors
    /// When it does not reach the polling server, known by its certificate.
    pub fn agent(&self, name: Option<&str>, port: u16, subscription: &str) -> Result<Agent> {
        let stream = self.net.client.connect(edge(port))?;
        Agent::introduce(stream, name, self.polling.fingerprint(), subscription)
    }

    /// A new TLS connection to the web application by its name.
    ///
    /// # Errors
    /// When it does not reach the web application, known by its certificate.
    pub fn browser(&self) -> Result<TlsClient> {
        let stream = self.net.client.connect(edge(SHARED_PORT))?;
        tls::connect(stream, Some(WEB_NAME), self.web.fingerprint())
    }

    /// Ends the daemon in peace, after all clients have gone.
    ///
    /// # Errors
    /// When a server had a complaint, or the daemon does not end as it should.
    #[track_caller]
    pub fn stop(self) -> Result<()> {
        let failures = [self.polling.failures(), self.web.failures()].concat();
        ensure!(failures.is_empty(), "the servers complain: {failures:#?}");
        self.daemon.stop()
    }
}

/// A site whose servers are plain TCP listeners, so that the test plays both ends of each flow.
#[derive(Debug)]
pub struct RawSite {
    /// The daemon at the edge.
    pub daemon: Daemon,
    /// In the place of the polling server.
    pub polling: RawListener,
    /// In the place of the web application.
    pub web: RawListener,
    /// The network.
    pub net: Topology,
}

impl RawSite {
    /// Starts the listeners and then the daemon.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn start(config: &Config) -> Result<Self> {
        Self::launch(config, &Launch::new()?)
    }

    /// Like [`RawSite::start`], with a daemon started in a way of its own.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn launch(config: &Config, launch: &Launch) -> Result<Self> {
        Self::build(config, launch, Place::Backend)
    }

    /// A site for `carrier`, with a configuration made of [`config_of`].
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn of(carrier: &Carrier, config: &Config) -> Result<Self> {
        Self::build(config, &carrier.launch()?, carrier.place)
    }

    /// The same on a network that is there.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn launch_in(net: Topology, config: &Config, launch: &Launch) -> Result<Self> {
        Self::build_in(net, config, launch, Place::Backend)
    }

    fn build(config: &Config, launch: &Launch, place: Place) -> Result<Self> {
        Self::build_in(Topology::create()?, config, launch, place)
    }

    fn build_in(net: Topology, config: &Config, launch: &Launch, place: Place) -> Result<Self> {
        let polling = RawListener::bind(place.of(&net), place.address(POLLING_PORT))?;
        let web = RawListener::bind(place.of(&net), place.address(WEB_PORT))?;
        let daemon = launch.start(&net.edge, config)?;
        Ok(Self { daemon, polling, web, net })
    }

    /// A new connection to the shared port that has sent nothing.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn connect(&self) -> Result<TcpStream> {
        self.net.client.connect(edge(SHARED_PORT))
    }

    /// A flow to the polling server whose hello has arrived: the client's end and the server's end.
    ///
    /// # Errors
    /// When the hello does not arrive there.
    #[track_caller]
    pub fn flow(&self) -> Result<(TcpStream, TcpStream)> {
        let hello = polling_hello();
        let mut client = self.connect()?;
        client.write_all(&hello)?;
        let server = self.polling.accept_after(&hello)?;
        Ok((client, server))
    }

    /// A flow of the listener for old agents, which carries any bytes.
    ///
    /// # Errors
    /// When it does not arrive.
    #[track_caller]
    pub fn legacy_flow(&self) -> Result<(TcpStream, TcpStream)> {
        let client = self.net.client.connect(edge(POLLING_PORT))?;
        Ok((client, self.polling.accept()?))
    }
}
